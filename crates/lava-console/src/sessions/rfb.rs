//! What a browser says to a guest's screen, in RFB 3.8 (RFC 6143, 7.1 to 7.5): of each message it is known where it ends, and only those
//! go on that whoever looks may send.
//!
//! *Boundary:* browser → QEMU. Anything that is not understood ends the view, because what follows could not be told apart.
//!
//! QEMU's half is not looked at: it goes to the page, which takes it for hostile (noVNC draws it on a canvas).

/// The one version that is spoken.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// Security type *None*: who may look was found out before.
const NONE: u8 = 1;
/// Others may look at the same time.
const SHARED: u8 = 1;
/// Most encodings in one list.
const MAX_ENCODINGS: u16 = 256;
/// Longest text for the guest's clipboard that is read over.
const MAX_CUT_TEXT: u32 = 1 << 20;

/// What QEMU is allowed to send: raw, copied, hextile, tight and ZRLE rectangles; the screen's new size, its last rectangle, the pointer's
/// shape, its name; and that it takes keys by scan code (the community's list: github.com/rfbproto, 7.7 and 7.8).
const ENCODINGS: [i32; 12] = [0, 1, 5, 7, 16, -223, -224, -239, -258, -307, 0x574d_5664, -261];
/// Those that say how hard to compress.
const LEVELS: std::ops::RangeInclusive<i32> = -256..=-247;

/// Why a view ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not what we speak.
    #[error("the browser speaks another version of RFB")]
    Version,
    /// It wants to prove who it is.
    #[error("the browser chose a kind of authentication that was not offered")]
    Security,
    /// A message of unknown length, or too long.
    #[error("the browser sent a message that is not understood (type {0})")]
    Message(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Version,
    Security,
    Init,
    Messages,
}

/// Where one browser's half of the conversation stands.
#[derive(Debug)]
pub struct Filter {
    stage: Stage,
    /// Keys and pointer go on.
    control: bool,
    /// Of a message that is not whole yet.
    part: Vec<u8>,
    /// Bytes that are read over.
    over: usize,
}

impl Filter {
    /// One that has heard nothing.
    pub const fn new(control: bool) -> Self {
        Self { stage: Stage::Version, control, part: Vec::new(), over: 0 }
    }

    /// Takes what came; gives what goes on to QEMU.
    ///
    /// # Errors
    /// [`Refused`]: the view is to be ended.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut part = std::mem::take(&mut self.part);
        part.extend_from_slice(bytes);
        let mut on = Vec::new();
        let mut at = 0;
        loop {
            let rest = part.get(at..).unwrap_or_default();
            let skipped = self.over.min(rest.len());
            self.over -= skipped;
            at += skipped;
            let rest = rest.get(skipped..).unwrap_or_default();
            let Some(length) = self.length(rest)? else { break };
            let Some(message) = rest.get(..length) else { break };
            self.pass(message, &mut on)?;
            at += length;
        }
        self.part = part.split_off(at);
        Ok(on)
    }

    /// How long the message is that begins so; none if that can't be told yet.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        match self.stage {
            Stage::Version => return Ok(Some(VERSION.len())),
            Stage::Security | Stage::Init => return Ok(Some(1)),
            Stage::Messages => {}
        }
        let Some(&kind) = bytes.first() else { return Ok(None) };
        Ok(match kind {
            0 => Some(20),
            2 => match bytes.get(2..4) {
                Some(count) => {
                    let count = u16::from_be_bytes([count[0], count[1]]);
                    if count > MAX_ENCODINGS {
                        return Err(Refused::Message(kind));
                    }
                    Some(4 + 4 * usize::from(count))
                }
                None => None,
            },
            3 => Some(10),
            4 => Some(8),
            5 => Some(6),
            // The text behind it is read over.
            6 => Some(8),
            // QEMU's own: a key by its scan code.
            255 => match bytes.get(1) {
                Some(0) => Some(12),
                Some(_) => return Err(Refused::Message(kind)),
                None => None,
            },
            _ => return Err(Refused::Message(kind)),
        })
    }

    fn pass(&mut self, message: &[u8], on: &mut Vec<u8>) -> Result<(), Refused> {
        match self.stage {
            Stage::Version if message == VERSION => {
                on.extend(message);
                self.stage = Stage::Security;
            }
            Stage::Version => return Err(Refused::Version),
            Stage::Security if message == [NONE] => {
                on.extend(message);
                self.stage = Stage::Init;
            }
            Stage::Security => return Err(Refused::Security),
            Stage::Init => {
                on.push(SHARED);
                self.stage = Stage::Messages;
            }
            Stage::Messages => match message.first() {
                Some(0 | 3) => on.extend(message),
                Some(2) => encodings(message, on),
                Some(4 | 5 | 255) if self.control => on.extend(message),
                Some(6) => {
                    // Negative: of another form (the extended clipboard's), as long as its amount says.
                    let length = message.last_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes).unsigned_abs());
                    if length > MAX_CUT_TEXT {
                        return Err(Refused::Message(6));
                    }
                    self.over = length as usize;
                }
                _ => {}
            },
        }
        Ok(())
    }
}

/// The list, without what we don't want QEMU to send.
fn encodings(message: &[u8], on: &mut Vec<u8>) {
    let all = message.get(4..).unwrap_or_default().chunks_exact(4);
    let wanted: Vec<&[u8]> = all
        .filter(|bytes| {
            let encoding = bytes.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes));
            ENCODINGS.contains(&encoding) || LEVELS.contains(&encoding)
        })
        .collect();
    let count = u16::try_from(wanted.len()).unwrap_or(0);
    on.extend([2, 0]);
    on.extend(count.to_be_bytes());
    on.extend(wanted.concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"RFB 003.008\n\x01\x00";
    const UPDATE: [u8; 10] = [3, 1, 0, 0, 0, 0, 4, 0, 3, 0];
    const KEY: [u8; 8] = [4, 1, 0, 0, 0, 0, 0, b'a'];
    const POINTER: [u8; 6] = [5, 1, 0, 10, 0, 20];
    const SCAN: [u8; 12] = [255, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 0x1e];

    /// What goes on of these messages after the greeting, whole and byte by byte.
    fn check(control: bool, messages: &[&[u8]]) -> Result<Vec<u8>, Refused> {
        let all = [HELLO, &messages.concat()].concat();
        let whole = Filter::new(control).take(&all);
        let mut filter = Filter::new(control);
        let pieces: Result<Vec<Vec<u8>>, Refused> = all.chunks(1).map(|byte| filter.take(byte)).collect();
        assert_eq!(whole, pieces.map(|pieces| pieces.concat()), "in pieces it is the same");
        whole.map(|on| {
            assert_eq!(on[..14], *b"RFB 003.008\n\x01\x01", "shared, whatever was asked");
            on[14..].to_vec()
        })
    }

    #[test]
    fn a_viewer_looks_and_touches_nothing() {
        let cut = [&[6, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat();
        let extended = [&[6, 0, 0, 0][..], &(-4i32).to_be_bytes(), &[1, 2, 3, 4]].concat();
        let all: [&[u8]; 7] = [&UPDATE, &KEY, &POINTER, &SCAN, &cut, &extended, &UPDATE];
        assert_eq!(check(false, &all), Ok([UPDATE, UPDATE].concat()));
        let touched = [&UPDATE[..], &KEY, &POINTER, &SCAN, &UPDATE].concat();
        assert_eq!(
            check(true, &all),
            Ok(touched),
            "and whoever took control types and points; the clipboard stays here"
        );
    }

    #[test]
    fn encodings_that_need_more_than_drawing_are_left_out() {
        let list = |all: &[i32]| {
            let count = u16::try_from(all.len()).unwrap().to_be_bytes();
            [&[2, 0][..], &count, &all.iter().flat_map(|each| each.to_be_bytes()).collect::<Vec<u8>>()].concat()
        };
        // JPEG, tight PNG, H.264, fences, sizes that the viewer sets, audio, the extended clipboard.
        let asked = list(&[1, 7, -260, 16, 21, 50, -223, -312, -308, -259, -1_063_131_698, -254]);
        assert_eq!(check(false, &[&asked]), Ok(list(&[1, 7, 16, -223, -254])));
    }

    #[test]
    fn what_is_not_understood_ends_the_view() {
        for (message, kind) in [
            (&[251u8, 0, 0, 0][..], 251),
            (&[150, 0], 150),
            (&[255, 1, 0, 0], 255),
            (&[2, 0, 255, 255], 2),
            (&[6, 0, 0, 0, 0x7f, 0, 0, 0], 6),
            (&[6, 0, 0, 0, 0x80, 0, 0, 0], 6),
        ] {
            assert_eq!(check(true, &[message]), Err(Refused::Message(kind)), "{message:?}");
        }
        assert_eq!(Filter::new(true).take(b"RFB 003.003\n"), Err(Refused::Version));
        assert_eq!(Filter::new(true).take(b"RFB 003.008\n\x02"), Err(Refused::Security));
        assert_eq!(Filter::new(true).take(b"GET / HTTP/1.1\r\n"), Err(Refused::Version));
    }
}
