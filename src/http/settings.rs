//! The limits of the doors as they are now: they may change while the doors are open.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::listen::HttpOptions;

/// The limits of the doors of all shards.
pub struct HttpSettings(ArcSwap<HttpOptions>);

impl HttpSettings {
    /// These, until they are changed.
    pub fn new(options: HttpOptions) -> Self {
        Self(ArcSwap::from_pointee(options))
    }

    /// Others from here on: for requests that come, and heads of connections that come.
    pub fn change(&self, options: HttpOptions) {
        self.0.store(Arc::new(options));
    }

    /// Those of now.
    pub fn now(&self) -> Arc<HttpOptions> {
        self.0.load_full()
    }
}
