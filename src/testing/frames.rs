//! Where the frames of a RESP stream begin and end, without understanding them.

use bytes::Bytes;

/// How much of an argument, and of a line, is kept.
const KEPT: usize = 1024;

/// Finds frames in a stream that arrives in pieces. Bytes that are no RESP count as a frame a
/// line, so that a corrupted stream is still a stream.
#[derive(Debug)]
pub(super) struct Frames {
    // Part of a header line whose end has not arrived.
    line: Vec<u8>,
    // What remains of the string being passed, with its line end.
    body: usize,
    // How many elements are outstanding of each aggregate around the current one.
    outstanding: Vec<u64>,
    collect: bool,
    args: Vec<Vec<u8>>,
}

impl Frames {
    /// `collect`: gather the strings of each frame, as the arguments of a command.
    pub(super) fn new(collect: bool) -> Self {
        Self { line: Vec::new(), body: 0, outstanding: Vec::new(), collect, args: Vec::new() }
    }

    /// Whether the next byte begins a frame.
    pub(super) fn is_between(&self) -> bool {
        self.line.is_empty() && self.body == 0 && self.outstanding.is_empty()
    }

    /// Takes the next piece and gives each frame that ends in it to `found`, with where it ends there.
    pub(super) fn feed(&mut self, piece: &[u8], mut found: impl FnMut(Vec<Bytes>, usize)) {
        let mut bytes = piece;
        while !bytes.is_empty() {
            if self.body > 0 {
                let (now, rest) = bytes.split_at(self.body.min(bytes.len()));
                if let Some(arg) = self.args.last_mut() {
                    // The line end is no part of the argument.
                    let content = self.body.saturating_sub(2).min(now.len());
                    let room = KEPT.saturating_sub(arg.len());
                    arg.extend_from_slice(&now[..content.min(room)]);
                }
                self.body -= now.len();
                bytes = rest;
                if self.body == 0 {
                    self.ended(&mut |args| found(args, piece.len() - rest.len()));
                }
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (now, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
            let room = KEPT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&now[..now.len().min(room)]);
            bytes = rest;
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.header(&line, &mut |args| found(args, piece.len() - rest.len()));
            }
        }
    }

    fn header(&mut self, line: &[u8], found: &mut impl FnMut(Vec<Bytes>)) {
        let number = std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.get(1..)?.trim_end().parse::<u64>().ok());
        let elements = match (line.first(), number) {
            (Some(b'$' | b'=' | b'!'), Some(len)) => {
                self.body = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(2);
                if self.collect {
                    self.args.push(Vec::new());
                }
                return;
            }
            (Some(b'*' | b'~' | b'>'), Some(count)) => count,
            (Some(b'%'), Some(count)) => count.saturating_mul(2),
            // The value that the attribute belongs to follows it.
            (Some(b'|'), Some(count)) => count.saturating_mul(2).saturating_add(1),
            _ => 0,
        };
        if elements > 0 {
            self.outstanding.push(elements);
        } else {
            self.ended(found);
        }
    }

    /// A value ended: it may have been the last of what it stands in.
    fn ended(&mut self, found: &mut impl FnMut(Vec<Bytes>)) {
        while let Some(left) = self.outstanding.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.outstanding.pop();
        }
        found(self.args.drain(..).map(Bytes::from).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&[u8]]) -> Vec<Vec<Bytes>> {
        let mut scanner = Frames::new(true);
        let mut found = Vec::new();
        for piece in pieces {
            scanner.feed(piece, |args, _| found.push(args));
        }
        found
    }

    #[test]
    fn commands_are_found_however_they_are_cut() {
        let stream = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nPING\r\n";
        let whole = frames(&[stream]);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0], ["GET", "a\r\nb"]);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(frames(&bytes), whole);
    }

    #[test]
    fn where_frames_end_and_begin_is_known_however_they_are_cut() {
        let mut scanner = Frames::new(false);
        let mut ends = Vec::new();
        scanner.feed(b":1\r\n>2\r\n+in\r\n", |_, at| ends.push(at));
        assert!(!scanner.is_between());
        scanner.feed(b"*1\r\n$1\r\nk\r\n:2\r\n", |_, at| ends.push(at));
        assert!(scanner.is_between());
        assert_eq!(ends, [4, 11, 15]);
    }

    #[test]
    fn nested_replies_attributes_and_nil_count_as_one_frame_each() {
        let stream =
            b"+OK\r\n*2\r\n*1\r\n:1\r\n%1\r\n+a\r\n_\r\n$-1\r\n*0\r\n|1\r\n+k\r\n:1\r\n:7\r\n";
        assert_eq!(frames(&[stream]).len(), 5);
    }

    #[test]
    fn garbage_counts_by_line_and_long_arguments_are_shortened() {
        assert_eq!(frames(&[b"hello\r\n$x\r\n"]).len(), 2);
        let long = format!("*1\r\n$5000\r\n{}\r\n", "a".repeat(5000));
        assert_eq!(frames(&[long.as_bytes()])[0][0].len(), KEPT);
    }
}
