//! Who a client says it is, once somebody has checked that.

/// What a token says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is: one user may have many clients.
    pub user: Box<str>,
    /// What others are shown of them, a JSON value.
    pub info: Option<Box<[u8]>>,
}
