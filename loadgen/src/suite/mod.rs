//! The standard set of runs against a gateway that is started here.

pub(crate) mod child;
pub(crate) mod index;
pub(crate) mod run;
pub(crate) mod set;
