//! Frames that a user writes, with holes for what differs from frame to frame.

use std::fmt;
use std::str::FromStr;

/// A text with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Hole(Hole),
    Text(Vec<u8>),
}

/// What goes into a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hole {
    /// The length of the payload in bytes.
    Bytes,
    /// The channel's name.
    Channel,
    /// A number that grows with each command of a connection.
    Id,
    /// The connection's number.
    I,
    /// An event's data: an object with `ts` and `seq`.
    Payload,
    /// The event's number in its channel, from 1; the request's number with `echo`.
    Seq,
    /// When it was due, in nanoseconds.
    Ts,
}

impl Hole {
    const ALL: [(&'static str, Self); 7] = [
        ("{bytes}", Self::Bytes),
        ("{channel}", Self::Channel),
        ("{id}", Self::Id),
        ("{i}", Self::I),
        ("{payload}", Self::Payload),
        ("{seq}", Self::Seq),
        ("{ts}", Self::Ts),
    ];
}

/// What the holes are filled with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) channel: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) connection: u32,
    pub(crate) id: u64,
    pub(crate) seq: u64,
    pub(crate) ts: u64,
}

impl Template {
    /// Appends the text with its holes filled.
    pub(crate) fn fill(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        for piece in &self.0 {
            let number = match piece {
                Piece::Text(text) => {
                    out.extend_from_slice(text);
                    continue;
                }
                Piece::Hole(Hole::Channel) => {
                    out.extend_from_slice(values.channel.as_bytes());
                    continue;
                }
                Piece::Hole(Hole::Payload) => {
                    out.extend_from_slice(values.payload);
                    continue;
                }
                Piece::Hole(Hole::Bytes) => values.payload.len() as u64,
                Piece::Hole(Hole::Id) => values.id,
                Piece::Hole(Hole::I) => u64::from(values.connection),
                Piece::Hole(Hole::Seq) => values.seq,
                Piece::Hole(Hole::Ts) => values.ts,
            };
            out.extend_from_slice(digits.format(number).as_bytes());
        }
    }

    pub(crate) fn has(&self, hole: Hole) -> bool {
        self.0.contains(&Piece::Hole(hole))
    }
}

/// As it was written, but for its line ends.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Hole(hole) => {
                let named = Hole::ALL.iter().find(|(_, one)| one == hole);
                f.write_str(named.map_or("", |(name, _)| name))
            }
            Piece::Text(text) => f.write_str(&String::from_utf8_lossy(text)),
        })
    }
}

impl FromStr for Template {
    type Err = String;

    /// Braces that name no hole stand for themselves; `\r` and `\n` are line ends.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must not be empty".into());
        }
        let text = text.replace("\\r", "\r").replace("\\n", "\n");
        let (mut pieces, mut plain, mut rest) = (Vec::new(), Vec::new(), text.as_str());
        while let Some(first) = rest.chars().next() {
            let hole = Hole::ALL.iter().find(|(name, _)| rest.starts_with(name));
            if let Some((name, hole)) = hole {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Hole(*hole));
                rest = &rest[name.len()..];
            } else {
                let len = first.len_utf8();
                plain.extend_from_slice(&rest.as_bytes()[..len]);
                rest = &rest[len..];
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str) -> String {
        let template: Template = template.parse().expect("valid");
        let values = Values { channel: "a:1", payload: b"{}", connection: 7, id: 3, seq: 5, ts: 9 };
        let mut out = Vec::new();
        template.fill(&values, &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn holes_are_filled_and_other_braces_stay() {
        let json = r#"{"id":{id},"publish":{"channel":"{channel}","data":{payload}},"x":{y}}"#;
        let filled = r#"{"id":3,"publish":{"channel":"a:1","data":{}},"x":{y}}"#;
        assert_eq!(fill(json), filled);
        assert_eq!(fill(r"PUB {channel} {bytes}\r\n{payload}\r\n"), "PUB a:1 2\r\n{}\r\n");
        assert_eq!(fill("{i}{seq}{ts}{"), "759{");
        assert_eq!(json.parse::<Template>().expect("valid").to_string(), json);
    }

    #[test]
    fn what_a_template_asks_for_is_known() {
        let template: Template = "a {seq}".parse().expect("valid");
        assert!(template.has(Hole::Seq) && !template.has(Hole::Payload));
        assert!("".parse::<Template>().is_err());
    }
}
