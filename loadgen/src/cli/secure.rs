//! The arguments of `wss://`, named as curl names them.

use std::path::PathBuf;

use clap::Args;
use rustls::pki_types::ServerName;

use super::work::Work;
use crate::fault::RunError;
use crate::target::Target;
use crate::trust::{Reuse, Trust};

#[derive(Debug, Args)]
pub(super) struct SecureArgs {
    /// Certificates to trust, in PEM [default: those that this machine trusts].
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Trust any certificate.
    #[arg(long, short = 'k')]
    insecure: bool,
    /// Whose certificate it must be, also told to the server (SNI) [default: the host of the URL].
    #[arg(long, value_parser = server_name, value_name = "NAME")]
    server_name: Option<ServerName<'static>>,
    /// Take up no session again: whoever comes back shakes hands as if for the first time.
    #[arg(long)]
    no_sessionid: bool,
}

impl SecureArgs {
    pub(super) fn work(&self, target: &Target, work: &mut Work) {
        if target.is_secure() {
            work.size("tls", 1);
            work.size("tls_sessions", u8::from(!self.no_sessionid));
            work.size("tls_unchecked", u8::from(self.insecure));
        }
    }

    /// Puts whom to trust into the target. What would be ignored is refused.
    pub(super) fn into(self, target: Target, shares_tickets: bool) -> Result<Target, RunError> {
        let given = [
            ("--cacert", self.cacert.is_some()),
            ("--insecure", self.insecure),
            ("--server-name", self.server_name.is_some()),
            ("--no-sessionid", self.no_sessionid),
            ("--resume", shares_tickets),
        ];
        let given = given.into_iter().find(|(_, is_given)| *is_given);
        if let Some((flag, _)) = given.filter(|_| !target.is_secure()) {
            return Err(RunError::Usage(format!("{flag} belongs to wss:// addresses")));
        }
        let trust = match self.cacert {
            Some(path) => Trust::File(path),
            None if self.insecure => Trust::Anybody,
            None => Trust::System,
        };
        let reuse = match (self.no_sessionid, shares_tickets) {
            (true, true) => {
                let text = "--resume takes sessions up again, and --no-sessionid none";
                return Err(RunError::Usage(text.to_owned()));
            }
            (true, false) => Reuse::Never,
            (false, true) => Reuse::Shared,
            (false, false) => Reuse::Own,
        };
        target.trusting(&trust, self.server_name, reuse).map_err(RunError::Usage)
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| "must be a name or an address".to_owned())
}
