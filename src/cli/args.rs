//! What a user may type.

use crate::cli::client::Url;
use crate::config::{Key, parse_duration};
use crate::core::access::{BadTemplate, Template};
use crate::proto::format::Subprotocol;
use crate::proto::name::{BadName, ChannelName, check_channel, pattern_prefix};
use crate::proto::rate::Rate;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a gateway is when nobody says otherwise.
const URL: &str = "ws://127.0.0.1:8080/ws";

/// An event gateway: channels over WebSocket, fanned out to every subscriber.
#[derive(Debug, Parser)]
#[command(name = "weir", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command the gateway runs, as with `weir serve`.\n\n\
    Example:\n  weir serve --demo\n  weir sub 'telemetry:*'")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`, for `weir` alone.
    #[command(flatten)]
    pub serve: Serve,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway.
    #[command(after_help = "Example:\n  weir serve --listen 127.0.0.1:9000 --shards 2\n\n\
        SIGHUP reads the settings and the files of keys again. SIGTERM and SIGINT drain; a second one\n\
        ends at once.")]
    Serve(Serve),
    /// Publish events and print their positions, one JSON line each.
    #[command(after_help = "Examples:\n  weir pub room:1 '{\"text\":\"hello\"}'\n  \
        weir pub telemetry:h1 --key cpu0 --stdin < samples.ndjson")]
    Pub(Publish),
    /// Print the events of channels, one line each.
    #[command(after_help = "Example:\n  weir sub room:1 room:2 --count 10 --format data")]
    Sub(Subscribe),
    /// Print the kept events of a channel, one line each.
    #[command(after_help = "Examples:\n  weir history room:1 --limit 10\n  \
        weir history room:1 --since k3Zq9TbA.57")]
    History(History),
    /// Print who has a channel by name, as one JSON line.
    #[command(after_help = "Example:\n  weir presence room:1")]
    Presence(Presence),
    /// Sign a token for development with the secret of the configuration.
    #[command(after_help = "Examples:\n  weir token --sub u1 --role producer --ttl 10m\n  \
        WEIR_AUTH__HMAC_SECRET_FILE=secret weir token --sub u1 --channels 'room:*'")]
    Token(Sign),
    /// Validate the settings and print those in force.
    #[command(after_help = "Example:\n  weir check --config weir.toml")]
    Check(Settings),
    /// Print a commented configuration with every default.
    #[command(after_help = "Example:\n  weir config > weir.toml")]
    Config,
}

/// Flags of `weir serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Its settings.
    #[command(flatten)]
    pub settings: Settings,
    /// Also publish this machine's telemetry to telemetry:HOST.
    #[arg(long)]
    pub demo: bool,
    /// Send back every message on /echo, for conformance tests.
    #[arg(long, hide = true)]
    pub echo: bool,
}

/// Flags of every command that reads the settings of a gateway.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The configuration, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Addresses and ports to listen on, with commas between them.
    #[arg(long, value_name = "ADDR,...")]
    pub listen: Option<String>,
    /// Threads that serve connections; 0 is one per core.
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Listen where others can connect, though auth.required is not set.
    #[arg(long)]
    pub insecure: bool,
    /// How log lines look; text on a terminal and json otherwise.
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
}

impl Settings {
    /// The flags that stand for keys of the configuration.
    pub fn keys(&self) -> Vec<(Key, &'static str, String)> {
        let flags = [
            (Key::Listen, "--listen", &self.listen),
            (Key::Shards, "--shards", &self.shards),
            (Key::LogFormat, "--log-format", &self.log_format),
        ];
        let given = flags.into_iter();
        given.filter_map(|(key, flag, value)| Some((key, flag, value.clone()?))).collect()
    }
}

/// Which gateway, and as whom.
#[derive(Debug, Args)]
pub struct To {
    /// The gateway.
    #[arg(long, env = "WEIR_URL", hide_env_values = true, default_value = URL)]
    #[arg(value_parser = Unshown(Url::from_str))]
    pub url: Url,
    /// The token to come with, a JWT.
    #[arg(long, value_name = "JWT", env = "WEIR_TOKEN", hide_env_values = true)]
    #[arg(value_parser = Unshown(Token::from_str))]
    pub token: Option<Token>,
}

/// Parses a value that may be secret, or have a secret in it: what is wrong with it is said without
/// it.
#[derive(Clone)]
struct Unshown<T>(fn(&str) -> Result<T, &'static str>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unshown<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parsed = value.to_str().ok_or("it is no text").and_then(self.0);
        parsed.map_err(|problem| {
            let flag = flag.map(ToString::to_string).unwrap_or_default();
            let said = format!("invalid value for '{flag}': {problem}");
            clap::Error::raw(ErrorKind::ValueValidation, said).format(&mut command.clone())
        })
    }
}

/// Flags of `weir pub`.
#[derive(Debug, Args)]
pub struct Publish {
    /// The channel, like room:1.
    pub channel: ChannelName,
    /// The event's data, a JSON value.
    #[arg(
        required_unless_present_any = ["stdin", "raw"],
        conflicts_with_all = ["stdin", "raw"],
        allow_negative_numbers = true
    )]
    pub data: Option<String>,
    /// A label of the event inside its channel.
    #[arg(long, value_name = "K")]
    pub key: Option<String>,
    /// Publish each line of standard input, a JSON value, as one event.
    #[arg(long)]
    pub stdin: bool,
    /// Publish the bytes of a file as one event, whatever they are; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    pub raw: Option<PathBuf>,
    /// How the events are sent: JSON text, gzip of it, or binary frames, with or without gzip.
    #[arg(long, value_enum, default_value_t = Sent::Json)]
    pub format: Sent,
    /// The gateway.
    #[command(flatten)]
    pub to: To,
}

/// Flags of `weir sub`.
#[derive(Debug, Args)]
pub struct Subscribe {
    /// The channels, like room:1, or patterns, like 'telemetry:*'.
    #[arg(required = true, value_parser = channel_or_pattern)]
    pub channels: Vec<String>,
    /// Begin after this place, with what was missed since; goes with one channel.
    #[arg(long, value_name = "EPOCH.OFFSET")]
    pub since: Option<Place>,
    /// End after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Whole events, or their data alone; bin and gzip print whole events that came so.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// The newest event of each key so many times a second, from 0.1 to 100; of each channel of a
    /// pattern by itself.
    #[arg(long, value_name = "HZ", value_parser = rate)]
    pub max_rate: Option<f64>,
    /// What happens when this reader is slow: drop_oldest, drop_newest, latest or disconnect.
    #[arg(long, value_name = "POLICY")]
    pub slow: Option<String>,
    /// The gateway.
    #[command(flatten)]
    pub to: To,
}

/// A rate, as it is sent.
fn rate(text: &str) -> Result<f64, &'static str> {
    let hz = text.parse().ok().filter(|hz| Rate::new(*hz).is_some());
    hz.ok_or("it must be a number from 0.1 to 100")
}

/// Flags of `weir history`.
#[derive(Debug, Args)]
pub struct History {
    /// The channel, like room:1.
    pub channel: ChannelName,
    /// The events after this place; without it the newest.
    #[arg(long, value_name = "EPOCH.OFFSET")]
    pub since: Option<Place>,
    /// At most this many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub limit: Option<u64>,
    /// From the newest backwards.
    #[arg(long)]
    pub reverse: bool,
    /// The gateway.
    #[command(flatten)]
    pub to: To,
}

/// Flags of `weir token`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The user.
    #[arg(long, value_name = "USER")]
    pub sub: String,
    /// A role; may be given several times.
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
    /// The claim `organization_id`.
    #[arg(long, value_name = "ID")]
    pub org: Option<String>,
    /// A pattern of channels to subscribe to, like 'room:*'; may be given several times.
    #[arg(long, value_name = "PATTERN", value_parser = template)]
    pub channels: Vec<String>,
    /// A pattern of channels to publish on; may be given several times.
    #[arg(long, value_name = "PATTERN", value_parser = template)]
    pub publish: Vec<String>,
    /// Any other claim; its value is JSON, or else a text.
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    pub claim: Vec<(String, serde_json::Value)>,
    /// How long it is good for, like 10m or 12h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = seconds)]
    pub ttl: u64,
    /// The configuration that names the secret, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

fn template(text: &str) -> Result<String, BadTemplate> {
    Template::parse(text).map(|_| text.to_owned())
}

fn claim(text: &str) -> Result<(String, serde_json::Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a claim is NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// At least a second.
fn seconds(text: &str) -> Result<u64, &'static str> {
    let ms = parse_duration(text).filter(|ms| *ms >= 1_000);
    ms.map(|ms| ms / 1_000).ok_or("it is a duration of a second at least, like 30s, 10m or 12h")
}

/// A token; not for anybody's eyes.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token, unless it is empty, as an unset variable of a script is.
    pub fn text(&self) -> Option<&str> {
        Some(self.0.trim()).filter(|text| !text.is_empty())
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = text.trim().bytes().all(|byte| byte.is_ascii_graphic());
        if legal { Ok(Self(text.to_owned())) } else { Err("a token has no spaces and is ASCII") }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Flags of `weir presence`.
#[derive(Debug, Args)]
pub struct Presence {
    /// The channel, like room:1.
    pub channel: ChannelName,
    /// The gateway.
    #[command(flatten)]
    pub to: To,
}

/// A place in a channel, as `weir pub` prints its two halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The life of the channel's numbering.
    pub epoch: String,
    /// The number of an event.
    pub offset: u64,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.rsplit_once('.').and_then(|(epoch, offset)| {
            Some(Self { epoch: epoch.to_owned(), offset: offset.parse().ok()? })
        });
        place.ok_or("a place is EPOCH.OFFSET, like k3Zq9TbA.57")
    }
}

impl Place {
    /// As commands have it.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"epoch": self.epoch, "offset": self.offset})
    }
}

/// A channel's name or a pattern, as it is sent.
fn channel_or_pattern(text: &str) -> Result<String, BadName> {
    if pattern_prefix(text)?.is_none() {
        check_channel(text)?;
    }
    Ok(text.to_owned())
}

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sent {
    /// In binary frames.
    Bin,
    /// In binary frames, the data in gzip from 1 KiB on.
    BinGzip,
    /// As gzip of JSON text.
    Gzip,
    /// As JSON text.
    Json,
}

impl Sent {
    /// What the connection speaks for it.
    pub fn subprotocol(self) -> Subprotocol {
        match self {
            Self::Bin | Self::BinGzip => Subprotocol::Bin,
            Self::Gzip => Subprotocol::JsonGzip,
            Self::Json => Subprotocol::Json,
        }
    }

    /// The same for bytes that are no JSON.
    pub fn raw(self) -> Self {
        match self {
            Self::Bin | Self::Json => Self::Bin,
            Self::BinGzip | Self::Gzip => Self::BinGzip,
        }
    }
}

/// What is printed of an event, and how it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The event as JSON, from a binary frame.
    Bin,
    /// The data alone.
    Data,
    /// The event as JSON, in gzip where it is large.
    Gzip,
    /// The event as it came.
    Json,
}

impl Format {
    /// What the connection speaks for it.
    pub fn subprotocol(self) -> Subprotocol {
        match self {
            Self::Bin => Subprotocol::Bin,
            Self::Data | Self::Json => Subprotocol::Json,
            Self::Gzip => Subprotocol::JsonGzip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_help_has_an_example() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        for command in command.get_subcommands().filter(|one| one.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn usage_is_checked() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        for line in [
            "weir",
            "weir --demo",
            "weir serve --shards 2",
            "weir check --insecure",
            "weir pub a -1",
            "weir sub a b:* c:d/*",
            "weir sub a --max-rate 2.5 --slow latest",
            "weir sub a --since k.5",
            "weir history a --since k.5 --limit 0 --reverse",
            "weir presence a",
            "weir sub a --token a.b.c",
            "weir token --sub u1 --role a --role b --channels a:* --claim n=5 --ttl 10m",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "weir pub a",
            "weir pub a 1 --stdin",
            "weir pub a:* 1",
            "weir sub",
            "weir sub *",
            "weir sub a:*:b",
            "weir sub a --since k",
            "weir history a --limit 1001",
            "weir history a:*",
            "weir presence a:*",
            "weir sub a --count 0",
            "weir sub a --max-rate NaN",
            "weir sub a --max-rate 101",
            "weir sub a --url http://h/ws",
            "weir --log-format xml",
            "weir nope",
            "weir token",
            "weir token --sub u1 --ttl 5",
            "weir token --sub u1 --channels a*",
            "weir token --sub u1 --claim n",
        ] {
            assert_eq!(parse(line).map_err(|e| e.exit_code()).err(), Some(2), "{line}");
        }
    }
}
