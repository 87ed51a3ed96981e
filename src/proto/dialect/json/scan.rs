//! A strict RFC 8259 validator that walks a text once, without recursion.
//!
//! It builds nothing: the caller gets the ranges of an object's fields. It does not check UTF-8,
//! which the frame decoder has done.

use super::plain::plain;

/// How deep a value may nest.
pub(super) const LEVELS_MAX: u32 = 64;

/// Why a text was refused, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// The byte at which reading stopped.
    pub(super) at: usize,
    /// What is wrong there.
    pub(super) what: &'static str,
    /// Whether it is only nested too deeply.
    pub(super) deep: bool,
}

/// One member of an object, by its raw texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'t> {
    /// What stands between the quotes.
    pub(super) key: &'t [u8],
    /// Whether the key has escapes.
    pub(super) escaped: bool,
    /// The value, without white space around it.
    pub(super) value: &'t [u8],
}

/// A place in a text.
#[derive(Debug)]
pub(super) struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

/// The open containers of a value. Invariant: `level` is at most [`LEVELS_MAX`], and is 0 only
/// when `outer` is empty.
#[derive(Debug, Default)]
struct Nesting {
    /// The innermost containers, one bit each, last opened lowest: 1 is an object.
    bits: u64,
    /// How many of `bits` are in use.
    level: u32,
    /// Full words of containers further out.
    outer: Vec<u64>,
}

impl Nesting {
    #[inline(always)]
    fn push(&mut self, object: bool) {
        if self.level == LEVELS_MAX {
            self.spill();
        }
        self.bits = self.bits << 1 | u64::from(object);
        self.level += 1;
    }

    #[cold]
    fn spill(&mut self) {
        self.outer.push(self.bits);
        self.level = 0;
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.bits >>= 1;
        self.level -= 1;
        if self.level == 0
            && let Some(bits) = self.outer.pop()
        {
            self.bits = bits;
            self.level = LEVELS_MAX;
        }
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

/// Whether `text` is one JSON value, however deep, with nothing but white space around it.
pub(super) fn is_json(text: &[u8]) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.value(true).is_ok() && scanner.end().is_ok()
}

impl<'t> Scanner<'t> {
    /// The beginning of `text`.
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Whether the next value is an object; skips the white space before it.
    pub(super) fn at_object(&mut self) -> bool {
        self.space();
        self.peek() == b'{'
    }

    /// Walks an object and hands out its fields.
    pub(super) fn object(&mut self, mut each: impl FnMut(Field<'t>)) -> Result<(), Fault> {
        self.space();
        self.expect(b'{', "expected an object")?;
        self.space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at + 1;
            let escaped = self.key()?;
            let key = &self.text[start..self.at - 1];
            self.colon()?;
            self.space();
            let start = self.at;
            self.value(false)?;
            each(Field { key, escaped, value: &self.text[start..self.at] });
            self.space();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fault("expected , or } after a field"),
            }
            self.space();
        }
    }

    /// Only white space may be left.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { self.fault("nothing may follow the value") }
    }

    /// Walks one value. Unless `any_depth`, nesting beyond [`LEVELS_MAX`] is a fault.
    fn value(&mut self, any_depth: bool) -> Result<(), Fault> {
        let mut open = Nesting::default();
        loop {
            self.space();
            match self.peek() {
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                byte @ (b'{' | b'[') => {
                    if open.level == LEVELS_MAX && !any_depth {
                        return Err(Fault {
                            at: self.at,
                            what: "nested deeper than 64 levels",
                            deep: true,
                        });
                    }
                    self.at += 1;
                    open.push(byte == b'{');
                    self.space();
                    // `]` and `}` are two above their openers in ASCII.
                    if self.peek() == byte + 2 {
                        self.at += 1;
                        open.pop();
                    } else {
                        if byte == b'{' {
                            self.key()?;
                            self.colon()?;
                        }
                        continue;
                    }
                }
                _ => return self.fault("expected a value"),
            }
            if !self.after_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Closes what ends here. Whether another value follows.
    #[inline(always)]
    fn after_value(&mut self, open: &mut Nesting) -> Result<bool, Fault> {
        while open.level > 0 {
            self.space();
            match (self.peek(), open.in_object()) {
                (b',', false) => {
                    self.at += 1;
                    return Ok(true);
                }
                (b',', true) => {
                    self.at += 1;
                    self.space();
                    self.key()?;
                    self.colon()?;
                    return Ok(true);
                }
                (b']', false) | (b'}', true) => {
                    self.at += 1;
                    open.pop();
                }
                (_, false) => return self.fault("expected , or ] after a value"),
                (_, true) => return self.fault("expected , or } after a field"),
            }
        }
        Ok(false)
    }

    /// The next byte; 0, which no rule accepts, at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    #[cold]
    fn fault<T>(&self, what: &'static str) -> Result<T, Fault> {
        let what = if self.at >= self.text.len() { "it ends too early" } else { what };
        Err(Fault { at: self.at, what, deep: false })
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() != byte {
            return self.fault(what);
        }
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn space(&mut self) {
        while let b' ' | b'\n' | b'\r' | b'\t' = self.peek() {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Fault> {
        self.space();
        self.expect(b':', "expected : after a field's name")
    }

    #[inline(always)]
    fn key(&mut self) -> Result<bool, Fault> {
        if self.peek() != b'"' {
            return self.fault("expected a field's name in quotes");
        }
        self.string()
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(word) {
            return self.fault("expected true, false or null");
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if let b'e' | b'E' = self.peek() {
            self.at += 1;
            if let b'+' | b'-' = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { self.fault("expected a digit") } else { Ok(()) }
    }

    /// Walks a string from its opening quote. Whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fault("a control character in a string must be escaped"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => match self.unit()? {
                0xD800..=0xDBFF => {
                    let low = if self.text[self.at..].starts_with(b"\\u") {
                        self.at += 1;
                        self.unit()?
                    } else {
                        0
                    };
                    if (0xDC00..=0xDFFF).contains(&low) { Ok(()) } else { self.lone() }
                }
                0xDC00..=0xDFFF => self.lone(),
                _ => Ok(()),
            },
            _ => self.fault("unknown escape in a string"),
        }
    }

    fn lone(&self) -> Result<(), Fault> {
        let fault =
            Fault { at: self.at, what: "a surrogate in a string stands alone", deep: false };
        Err(fault)
    }

    /// The four hexadecimal digits behind `u`.
    fn unit(&mut self) -> Result<u16, Fault> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                byte @ b'0'..=b'9' => byte - b'0',
                byte @ b'a'..=b'f' => byte - b'a' + 10,
                byte @ b'A'..=b'F' => byte - b'A' + 10,
                _ => return self.fault("\\u needs four hexadecimal digits"),
            };
            unit = unit << 4 | u16::from(digit);
            self.at += 1;
        }
        Ok(unit)
    }
}
