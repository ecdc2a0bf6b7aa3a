//! NBD's bytes: constants, the request header, the replies.
//!
//! Source: the NBD protocol specification, <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, sections
//! "Values" and "Transmission phase". All numbers are big-endian.

use std::io;

/// "NBDMAGIC", section "Fixed newstyle negotiation".
pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(crate) const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Section "Option types".
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
}

/// Section "Option reply types".
pub(crate) mod reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub(crate) const ERR_INVALID: u32 = 1 << 31 | 3;
    pub(crate) const ERR_UNKNOWN: u32 = 1 << 31 | 6;
}

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Section "Transmission flags": has flags, flush, FUA, trim, write zeroes, multi-conn.
pub(crate) const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

/// Block sizes, bytes: the least, the best, and the most a READ or WRITE may ask for.
pub(crate) const BLOCK_SIZES: [u32; 3] = [512, 4096, MOST];
/// 32 MiB, the most that QEMU ever sends.
pub(crate) const MOST: u32 = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Length of a request's header, bytes.
pub(crate) const REQUEST_LEN: usize = 28;
/// Length of a simple reply's header, bytes.
pub(crate) const REPLY_LEN: usize = 16;

const COMMAND_FUA: u16 = 1;
const COMMAND_NO_HOLE: u16 = 1 << 1;

/// Section "Error values".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NbdError {
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

impl From<&io::Error> for NbdError {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) { Self::NoSpace } else { Self::Io }
    }
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke, or the client was silent during the handshake for too long.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The client's flags are none of those offered (section "Newstyle negotiation").
    #[error("the client sent the flags {0:#x}, which nobody offered")]
    ClientFlags(u32),
    /// An option does not begin with IHAVEOPT.
    #[error("an option began with {0:#x}")]
    OptionMagic(u64),
    /// An option's data is longer than any that makes sense.
    #[error("an option's data was {0} bytes long")]
    OptionLength(u32),
    /// The client negotiates without end.
    #[error("the client sent too many options")]
    Options,
    /// `NBD_OPT_EXPORT_NAME` asked for a name that does not exist: closing is the only answer the specification knows.
    #[error("the client asked for an export that does not exist")]
    Export,
    /// A request does not begin with the request magic: nothing behind it can be trusted.
    #[error("a request began with {0:#x}")]
    RequestMagic(u32),
    /// A WRITE longer than the maximum of 32 MiB that the handshake named.
    #[error("a write of {0} bytes, more than the maximum")]
    WriteLength(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes { hole: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// `None`: not understood, or flags that do not fit; answered with EINVAL.
    pub(crate) command: Option<Command>,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// Bytes; for a WRITE as many follow.
    pub(crate) length: u32,
    /// True if bytes follow the header.
    pub(crate) payload: bool,
}

impl Request {
    /// Section "Request message".
    pub(crate) fn parse(header: &[u8; REQUEST_LEN]) -> Result<Self, WireError> {
        let number =
            |at: usize, len: usize| header[at..at + len].iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
        let magic = number(0, 4) as u32;
        if magic != REQUEST_MAGIC {
            return Err(WireError::RequestMagic(magic));
        }
        let flags = number(4, 2) as u16;
        let kind = number(6, 2) as u16;
        let command = match kind {
            0 => Some(Command::Read),
            1 => Some(Command::Write),
            2 => Some(Command::Disconnect),
            3 => Some(Command::Flush),
            4 => Some(Command::Trim),
            6 => Some(Command::WriteZeroes { hole: flags & COMMAND_NO_HOLE == 0 }),
            _ => None,
        };
        // FUA is allowed everywhere, and means nothing to a disk that ends with the session.
        let known = if kind == 6 { COMMAND_FUA | COMMAND_NO_HOLE } else { COMMAND_FUA };
        let request = Self {
            command: command.filter(|_| flags & !known == 0),
            cookie: number(8, 8),
            offset: number(16, 8),
            length: number(24, 4) as u32,
            payload: kind == 1,
        };
        if request.payload && request.length > MOST {
            return Err(WireError::WriteLength(request.length));
        }
        Ok(request)
    }

    /// The bytes asked for, if they are all inside a disk of `size` bytes.
    pub(crate) fn range(&self, size: u64) -> Option<lava_event::Range> {
        let end = self.offset.checked_add(self.length.into())?;
        (end <= size).then_some(lava_event::Range { start: self.offset, end })
    }
}

/// Section "Simple reply message".
pub(crate) fn reply_header(cookie: u64, result: Result<(), NbdError>) -> [u8; REPLY_LEN] {
    let mut header = [0; REPLY_LEN];
    header[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    header[4..8].copy_from_slice(&result.map_or_else(|error| error as u32, |()| 0).to_be_bytes());
    header[8..].copy_from_slice(&cookie.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_header_is_a_request_or_an_error(mut header in any::<[u8; REQUEST_LEN]>(), right in any::<bool>()) {
            if right {
                header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            }
            if let Ok(request) = Request::parse(&header) {
                prop_assert!(!request.payload || request.length <= MOST);
                if let Some(range) = request.range(1 << 20) {
                    prop_assert!(range.start <= range.end && range.end <= 1 << 20);
                }
            }
        }
    }

    #[test]
    fn flags_that_do_not_fit_are_refused() {
        let mut header = [0; REQUEST_LEN];
        header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[5] = 2;
        header[7] = 6;
        assert_eq!(Request::parse(&header).unwrap().command, Some(Command::WriteZeroes { hole: false }));
        header[7] = 0;
        assert_eq!(Request::parse(&header).unwrap().command, None);
    }
}
