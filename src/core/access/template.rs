//! Patterns of channel names in rules and tokens: `organization:{organization_id}:*`.

use std::fmt;

use super::Target;
use crate::core::bearer::Bearer;

/// A pattern of channel names. Its parts stand between `:`; `{claim}` is that claim of a token as
/// text, `*` is one part, and `**` at the end is one part or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// The value of a claim.
    Claim(Box<str>),
    /// All that follows.
    Rest,
    /// Up to the next `:`, or to the end.
    Segment,
    /// These characters.
    Text(Box<str>),
}

/// Why a text is no [`Template`]; says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// An opening brace without its end, or the other way round.
    #[error("a claim is written {{claim}}, with both braces")]
    Brace,
    /// A character that no name has.
    #[error("a channel name has only the characters A-Z a-z 0-9 _ . : / -")]
    Character,
    /// No name between braces.
    #[error("a claim has a name, as in {{organization_id}}")]
    Claim,
    /// Nothing before, between or after `:`.
    #[error("a pattern has no empty part around ':'")]
    EmptyPart,
    /// A `*` beside other characters.
    #[error("* stands for a whole part between ':', and ** for the last parts")]
    Star,
}

impl Template {
    /// Whether it has the value of a claim, so that it fits nothing for whoever has no token.
    pub fn has_claim(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Claim(_)))
    }

    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`BadTemplate`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let mut pieces = Pieces::default();
        let mut rest = text;
        loop {
            let (end, star) = part(rest, &mut pieces)?;
            let Some(after) = rest.get(end + 1..).filter(|_| end < rest.len()) else {
                return Ok(Self(pieces.done()));
            };
            if star == Some(Piece::Rest) {
                return Err(BadTemplate::Star);
            }
            pieces.text.push(':');
            rest = after;
        }
    }

    /// Whether it fits a channel, or every channel that begins with a prefix. A claim that the
    /// bearer lacks fits nothing.
    pub fn fits(&self, bearer: Option<&Bearer>, target: Target<'_>) -> bool {
        let mut rest = target.text();
        for piece in &self.0 {
            let after = match piece {
                Piece::Claim(name) => {
                    let value = bearer.and_then(|bearer| bearer.claim(name));
                    value.and_then(|value| rest.strip_prefix(value))
                }
                // A prefix has names with something behind it.
                Piece::Rest => return matches!(target, Target::Prefix(_)) || !rest.is_empty(),
                Piece::Segment => segment(rest, target),
                Piece::Text(text) => rest.strip_prefix(&**text),
            };
            let Some(after) = after else { return false };
            rest = after;
        }
        // Names that begin with a prefix go on without end.
        rest.is_empty() && matches!(target, Target::Name(_))
    }
}

/// What is behind one part of a name. The last part of a prefix may go on, and end, anywhere.
fn segment<'a>(rest: &'a str, target: Target<'_>) -> Option<&'a str> {
    match memchr::memchr(b':', rest.as_bytes()) {
        Some(0) => None,
        Some(end) => rest.get(end..),
        None if rest.is_empty() || matches!(target, Target::Prefix(_)) => None,
        None => Some(""),
    }
}

/// Reads one part: where it ends, and which star it was.
fn part(text: &str, pieces: &mut Pieces) -> Result<(usize, Option<Piece>), BadTemplate> {
    for (star, piece) in [("**", Piece::Rest), ("*", Piece::Segment)] {
        if let Some(after) = text.strip_prefix(star)
            && (after.is_empty() || after.starts_with(':'))
        {
            pieces.push(piece.clone());
            return Ok((star.len(), Some(piece)));
        }
    }
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b':' => break,
            b'{' => {
                let name = text.get(at + 1..).unwrap_or_default();
                let (name, _) = name.split_once('}').ok_or(BadTemplate::Brace)?;
                if name.contains('{') {
                    return Err(BadTemplate::Brace);
                }
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(BadTemplate::Claim);
                }
                pieces.push(Piece::Claim(name.into()));
                at += name.len() + 1;
            }
            b'}' => return Err(BadTemplate::Brace),
            b'*' => return Err(BadTemplate::Star),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'/' | b'-' => {
                pieces.text.push(char::from(*byte));
            }
            _ => return Err(BadTemplate::Character),
        }
        at += 1;
    }
    if at == 0 { Err(BadTemplate::EmptyPart) } else { Ok((at, None)) }
}

/// What was read, with the characters since the last other piece.
#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    text: String,
}

impl Pieces {
    fn push(&mut self, piece: Piece) {
        self.close();
        self.done.push(piece);
    }

    fn close(&mut self) {
        if !self.text.is_empty() {
            self.done.push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
    }

    fn done(mut self) -> Box<[Piece]> {
        self.close();
        self.done.into()
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Claim(name) => write!(f, "{{{name}}}")?,
                Piece::Rest => f.write_str("**")?,
                Piece::Segment => f.write_str("*")?,
                Piece::Text(text) => f.write_str(text)?,
            }
        }
        Ok(())
    }
}
