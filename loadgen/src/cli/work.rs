//! What makes two runs the same work, as far as only the command line knows it.

use crate::report::Report;
use crate::wire::template::Template;

/// Numbers and texts, by name.
#[derive(Debug, Default)]
pub(super) struct Work {
    sizes: Vec<(&'static str, f64)>,
    texts: Vec<(&'static str, String)>,
}

impl Work {
    pub(super) fn size(&mut self, name: &'static str, size: impl Into<f64>) {
        self.sizes.push((name, size.into()));
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(super) fn count(&mut self, name: &'static str, count: u64) {
        self.size(name, count as f64);
    }

    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.texts.push((name, text.to_owned()));
    }

    /// A template, if there is one.
    pub(super) fn template(&mut self, name: &'static str, template: Option<&Template>) {
        self.texts.extend(template.map(|template| (name, template.to_string())));
    }

    /// Writes it into the report, over what the scenario has said.
    pub(super) fn book(self, report: &mut Report) {
        report.sizes.extend(self.sizes);
        report.texts.extend(self.texts);
    }
}
