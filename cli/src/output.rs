//! Writing results: text or JSON, to a pipe as they are, to a terminal without control characters.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Where results go.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let out = io::stdout();
        Self { json, terminal: out.is_terminal(), out: BufWriter::new(out) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// One line: `text` for people and scripts, or `json`.
    pub(crate) fn line(&mut self, text: &[u8], json: &Value) -> Result<(), Failure> {
        if self.json {
            return self.json(json);
        }
        if self.terminal {
            self.out.write_all(escaped(text).as_bytes())?;
        } else {
            self.out.write_all(text)?;
        }
        Ok(self.out.write_all(b"\n")?)
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, json: &Value) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{}", escaped_json(json))?)
    }

    /// A line of this program's own, which needs no escaping.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}")?;
        // A narration is read while it goes on.
        self.flush()
    }

    /// A number, as Redis gives it; `json` where JSON has a better word for it.
    pub(crate) fn number(
        &mut self,
        number: impl ToString,
        json: impl Into<Value>,
    ) -> Result<(), Failure> {
        self.line(number.to_string().as_bytes(), &json.into())
    }

    /// A value with a line feed, or `null` in JSON and nothing in text. Answers whether there is one.
    pub(crate) fn value(&mut self, value: Option<Bytes>) -> Result<bool, Failure> {
        match &value {
            Some(value) => self.line(value, &json_bytes(value))?,
            None if self.json => self.json(&Value::Null)?,
            None => {}
        }
        Ok(value.is_some())
    }

    /// Values: one a line, or one array.
    pub(crate) fn values(&mut self, values: &[Bytes]) -> Result<(), Failure> {
        if self.json {
            return self.json(&values.iter().map(json_bytes).collect());
        }
        values.iter().try_for_each(|value| self.line(value, &Value::Null))
    }

    /// Fields and values: a tab between them and one pair a line, or one object.
    pub(crate) fn pairs(&mut self, pairs: &[(Bytes, Bytes)]) -> Result<(), Failure> {
        if self.json {
            let field = |field: &Bytes| match json_bytes(field) {
                Value::String(text) => text,
                // A name in JSON is text.
                _ => format!("\\x{}", hex(field)),
            };
            let object = pairs.iter().map(|(name, value)| (field(name), json_bytes(value)));
            return self.json(&Value::Object(object.collect()));
        }
        for (field, value) in pairs {
            if self.terminal {
                writeln!(self.out, "{}\t{}", escaped(field), escaped(value))?;
            } else {
                self.out.write_all(&[field, b"\t".as_slice(), value, b"\n"].concat())?;
            }
        }
        Ok(())
    }

    /// One line of columns: with tabs between them, or, for people, of some width each.
    pub(crate) fn row(&mut self, columns: &[&[u8]]) -> Result<(), Failure> {
        if !self.terminal {
            self.out.write_all(&columns.join(&b'\t'))?;
            return Ok(self.out.write_all(b"\n")?);
        }
        const WIDTHS: [usize; 4] = [32, 14, 10, 21];
        let mut line = String::new();
        for (at, column) in columns.iter().enumerate() {
            let width = WIDTHS.get(at).copied().unwrap_or(0);
            _ = write!(line, "{:<width$} ", escaped(column));
        }
        Ok(writeln!(self.out, "{}", line.trim_end())?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// Writes an error. If even that is impossible, the exit code has to do.
pub(crate) fn complain(text: &str) {
    _ = writeln!(io::stderr(), "larder: {}", escaped(text.as_bytes()));
}

/// Bytes in JSON: text, or `{"hex": ...}` if they are none.
pub(crate) fn json_bytes(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Text that cannot steer a terminal: control characters as `\n`, `\u{1b}`, bytes that are not UTF-8 as
/// `\xff`. What makes text run backwards or invisibly counts as a control character.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if steers(char) {
                shown.extend(char.escape_default());
            } else {
                shown.push(char);
            }
        }
        for byte in chunk.invalid() {
            _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// JSON whose strings cannot steer a terminal: the same value, with more of it written as `\u`.
fn escaped_json(json: &Value) -> String {
    let plain = json.to_string();
    let mut shown = String::with_capacity(plain.len());
    for char in plain.chars() {
        if steers(char) {
            // All of them lie within the first plane: one unit of UTF-16 each.
            _ = write!(shown, "\\u{:04x}", u32::from(char));
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Control characters, and those that change the direction of text or break lines.
fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_a_terminal_has_no_control_characters() {
        assert_eq!(escaped(b"\x1b[31mred\x07\r\n\t"), r"\u{1b}[31mred\u{7}\r\n\t");
        assert_eq!(escaped("\u{9b}31m \u{202e}txt.exe \u{7f}".as_bytes()), {
            r"\u{9b}31m \u{202e}txt.exe \u{7f}"
        });
        assert_eq!(escaped(b"a\xff\xfeb"), r"a\xff\xfeb");
        assert_eq!(escaped("grüezi 🧀 \"x\"".as_bytes()), "grüezi 🧀 \"x\"");
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let value = json!({"k\u{7f}": ["\u{1b}[2J\u{9b}m\u{202e}", "ü🧀"]});
        let shown = escaped_json(&value);
        assert!(!shown.chars().any(steers), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }

    #[test]
    fn bytes_that_are_not_text_are_hex_in_json() {
        assert_eq!(json_bytes(&Bytes::from_static(b"\xff\x00")), json!({"hex": "ff00"}));
        assert_eq!(json_bytes(&Bytes::from_static(b"x")), json!("x"));
    }
}
