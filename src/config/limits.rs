//! What the configuration says about how many connections there may be, and how often somebody may
//! come or ask.

use super::check::Check;
use super::key::Key;
use crate::shard::LimitOptions;

impl Check<'_> {
    /// The limits of connections and rates.
    pub(super) fn limits(&mut self) -> LimitOptions {
        let options = LimitOptions {
            connections: self.count(Key::LimitsConnections),
            connections_per_ip: self.small(Key::LimitsConnectionsPerIp),
            connections_per_user: self.small(Key::LimitsConnectionsPerUser),
            connects_per_second_per_ip: self.small(Key::LimitsConnectsPerSecondPerIp),
            commands_per_second: self.small(Key::LimitsCommandsPerSecond),
            http_requests_per_second: self.small(Key::LimitsHttpRequestsPerSecond),
            auth_failures_per_second_per_ip: self.small(Key::LimitsAuthFailuresPerSecondPerIp),
        };
        for (key, most) in [
            (Key::LimitsConnectionsPerIp, options.connections_per_ip),
            (Key::LimitsConnectionsPerUser, options.connections_per_user),
        ] {
            if usize::try_from(most).is_ok_and(|most| most > options.connections) {
                let all = options.connections;
                let problem = format!(
                    "is {most}, more than limits.connections ({all}), so that it never counts: \
                     say less, or 0 for no limit"
                );
                self.fault(key, &problem);
            }
        }
        if options.connections_per_user > 0 && self.is_keyless() {
            let problem = "is set, and nobody is known as a user without a key: set \
                 auth.hmac_secret_file, auth.public_key_file or auth.jwks_file, or \
                 limits.connections_per_ip";
            self.fault(Key::LimitsConnectionsPerUser, problem);
        }
        options
    }

    /// A number of the table, which are all within 32 bits.
    fn small(&mut self, key: Key) -> u32 {
        u32::try_from(self.number(key)).unwrap_or(u32::MAX)
    }
}
