//! A report as one page that needs nothing else: figures, plots, machine, command, verdict.

pub(crate) mod page;
pub(crate) mod plot;
