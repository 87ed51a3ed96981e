//! Log lines on standard error.

use crate::cli::output::say;
use crate::config::{LogFormat, LogOptions};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

/// What writes the lines that pass the filter.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// What the filter stands on.
type Below = tracing_subscriber::layer::Layered<reload::Layer<Lines, Registry>, Registry>;

/// The log of this process, whose level and format may change.
pub(super) struct Log(Option<(reload::Handle<Lines, Registry>, reload::Handle<EnvFilter, Below>)>);

impl Log {
    /// Starts the log. A log that somebody else started stays.
    pub(super) fn start(options: &LogOptions) -> Self {
        let (lines, line_handle) = reload::Layer::new(lines(options));
        let (filter, filter_handle) = reload::Layer::new(EnvFilter::new(&options.level));
        match tracing_subscriber::registry().with(lines).with(filter).try_init() {
            Ok(()) => Self(Some((line_handle, filter_handle))),
            Err(error) => {
                say(format_args!("weir: failed to start the log: {error}"));
                Self(None)
            }
        }
    }

    /// Logs otherwise from here on.
    pub(super) fn change(&self, options: &LogOptions) {
        let Some((line_handle, filter_handle)) = &self.0 else { return };
        let changed = line_handle
            .reload(lines(options))
            .and_then(|()| filter_handle.reload(EnvFilter::new(&options.level)));
        if let Err(error) = changed {
            say(format_args!("weir: failed to change the log: {error}"));
        }
    }
}

fn lines(options: &LogOptions) -> Lines {
    let terminal = stderr().is_terminal();
    let json = match options.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(terminal).with_target(false).boxed()
    }
}
