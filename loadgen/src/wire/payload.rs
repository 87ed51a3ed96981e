//! An event's data: an object that begins with marks, which are numbers, and is filled up to a size.

/// Appends an object of `bytes` bytes, or as many as its marks need.
pub(crate) fn push(marks: &[(&str, u64)], bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    push_marks(marks, out);
    push_fill(bytes.saturating_sub(out.len() - start), out);
}

/// The front of an object: its marks, each with a comma behind it.
pub(super) fn push_marks(marks: &[(&str, u64)], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.push(b'{');
    for (name, number) in marks {
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(digits.format(*number).as_bytes());
        out.push(b',');
    }
}

/// The end of an object, filled up to so many bytes.
pub(super) fn push_fill(bytes: usize, out: &mut Vec<u8>) {
    let (front, end) = (br#""fill":""#, br#""}"#);
    out.extend_from_slice(front);
    out.resize(out.len() + bytes.saturating_sub(front.len() + end.len()), b'x');
    out.extend_from_slice(br#""}"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_as_large_as_asked_and_never_without_its_marks() {
        let data = |bytes| {
            let mut out = b"before".to_vec();
            push(&[("ts", 42), ("seq", 7)], bytes, &mut out);
            String::from_utf8(out.split_off(6)).expect("UTF-8")
        };
        assert_eq!(data(0), r#"{"ts":42,"seq":7,"fill":""}"#);
        assert_eq!(data(30), r#"{"ts":42,"seq":7,"fill":"xxx"}"#);
        assert_eq!(data(1_000).len(), 1_000);
    }
}
