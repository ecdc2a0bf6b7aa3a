//! Writes `traffic.pcapng` (draft-ietf-opsawg-pcapng).
//!
//! Blocks are collected in memory and go to the file whole, so that whoever kills the supervisor leaves a capture that
//! ends at a block's border. One section, one interface: the guest's side of the virtual cable, seen from LAVA. What the
//! guest sends is "inbound". Time stamps are Unix time in ns, made from the session's monotonic clock and the wall clock
//! at its start: they never run backwards, and `time - start` is an event's `time_ns`.
//!
//! Limits: [`CAPTURE_LIMIT`]; a killed host may lose the last second, for nothing is forced to the disk before the end.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use pcap_parser::pcapng::{
    DecryptionSecretsBlock, EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapNGOption, SecretsType,
    SectionHeaderBlock,
};
use pcap_parser::{Linktype, ToVec};

/// Size at which a capture ends, bytes: a guest that floods its network must not fill the host's disk.
pub const CAPTURE_LIMIT: u64 = 4 << 30;
/// Blocks are written at the latest when they are this many bytes.
const BUFFER: usize = 256 << 10;
/// pcapng's `if_tsresol`: 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Option `epb_flags` (section 4.3.1 of the draft); bits 0-1 are the direction.
const EPB_FLAGS: OptionCode = OptionCode(2);
/// Largest packet that Wireshark reads, bytes: what we capture is always shorter.
const SNAPLEN: u32 = 262_144;

/// Which way a frame went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the guest.
    Inbound = 1,
    /// To the guest.
    Outbound = 2,
}

/// The open capture.
#[derive(Debug)]
pub struct Capture<W: Sink = File> {
    file: W,
    /// Whole blocks that are not in the file yet.
    buffer: Vec<u8>,
    /// Bytes of whole blocks in the file.
    written: u64,
    limit: u64,
    start_unix_ns: u64,
    /// Frames and their bytes in the file.
    stored: (u64, u64),
    /// Frames and their bytes in `buffer`.
    pending: (u64, u64),
}

/// What a capture is written to: a file, or a test's broken one.
pub trait Sink: Write {
    /// Cuts off what lies behind `length` bytes, after a failed write.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Forces everything to the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Capture {
    /// Creates the file and writes its header. `start_unix_ns`: the wall clock when the session's clock was 0.
    pub fn create(path: &Path, start_unix_ns: u64) -> io::Result<Self> {
        Self::begin(File::create_new(path)?, start_unix_ns, CAPTURE_LIMIT)
    }
}

impl<W: Sink> Capture<W> {
    /// Writes the header into an empty sink.
    pub fn begin(file: W, start_unix_ns: u64, limit: u64) -> io::Result<Self> {
        let mut buffer = serialize(&mut section())?;
        buffer.extend(serialize(&mut interface())?);
        let mut capture = Self { file, buffer, written: 0, limit, start_unix_ns, stored: (0, 0), pending: (0, 0) };
        capture.flush()?;
        Ok(capture)
    }

    /// Records a frame and returns its number, from 1. `length`: what it claims to be long, if not all of it came.
    ///
    /// # Errors
    /// The capture is full or the file cannot be written. The frame is not recorded, or lost with the others of the last
    /// second; nothing may be recorded after that.
    pub fn record(&mut self, frame: &[u8], length: u32, way: Direction, time_ns: u64) -> io::Result<u64> {
        let stamp = self.start_unix_ns.saturating_add(time_ns);
        let flags = [way as u8, 0, 0, 0];
        let mut padded = frame.to_vec();
        padded.resize(frame.len().next_multiple_of(4), 0);
        let block = serialize(&mut EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: 0,
            ts_high: (stamp >> 32) as u32,
            ts_low: (stamp & 0xffff_ffff) as u32,
            caplen: u32::try_from(frame.len()).map_err(io::Error::other)?,
            origlen: length,
            data: &padded,
            options: vec![option(EPB_FLAGS, &flags)],
            block_len2: 0,
        })?;
        self.add(block)?;
        self.pending.0 += 1;
        self.pending.1 += frame.len() as u64;
        Ok(self.counts().0)
    }

    /// Records keys of TLS, lines of a key log: the frames behind them can be decrypted.
    ///
    /// # Errors
    /// As [`Capture::record`].
    pub fn secrets(&mut self, lines: &str) -> io::Result<()> {
        let block = serialize(&mut DecryptionSecretsBlock {
            block_type: 0,
            block_len1: 0,
            secrets_type: SecretsType::TlsKeyLog,
            secrets_len: u32::try_from(lines.len()).map_err(io::Error::other)?,
            data: lines.as_bytes(),
            options: Vec::new(),
            block_len2: 0,
        })?;
        self.add(block)
    }

    fn add(&mut self, block: Vec<u8>) -> io::Result<()> {
        if self.written + (self.buffer.len() + block.len()) as u64 > self.limit {
            return Err(io::Error::other(format!("it reached its limit of {} bytes", self.limit)));
        }
        if self.buffer.len() + block.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend(block);
        Ok(())
    }

    /// Writes what is collected into the file. After an error the file ends with its last whole block.
    ///
    /// # Errors
    /// The file cannot be written (disk full).
    pub fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_all(&self.buffer) {
            // If not even cutting works, readers still find every block before the torn one.
            let _ = self.file.cut(self.written);
            self.buffer.clear();
            self.pending = (0, 0);
            return Err(error);
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.stored = self.counts();
        self.pending = (0, 0);
        Ok(())
    }

    /// Writes everything and forces it to the disk.
    ///
    /// # Errors
    /// The file cannot be written (disk full).
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync()
    }

    /// Frames recorded, and their bytes.
    pub const fn counts(&self) -> (u64, u64) {
        (self.stored.0 + self.pending.0, self.stored.1 + self.pending.1)
    }
}

fn section() -> SectionHeaderBlock<'static> {
    const LAVA: &str = concat!("LAVA ", env!("CARGO_PKG_VERSION"));
    const COMMENT: &str =
        concat!("Recorded by LAVA ", env!("CARGO_PKG_VERSION"), ": a simulated network, nothing left the host.");
    SectionHeaderBlock {
        block_type: 0,
        block_len1: 0,
        bom: 0,
        major_version: 1,
        minor_version: 0,
        section_len: -1,
        options: vec![
            option(OptionCode::Comment, COMMENT.as_bytes()),
            option(OptionCode::ShbUserAppl, LAVA.as_bytes()),
        ],
        block_len2: 0,
    }
}

fn interface() -> InterfaceDescriptionBlock<'static> {
    InterfaceDescriptionBlock {
        block_type: 0,
        block_len1: 0,
        linktype: Linktype::ETHERNET,
        reserved: 0,
        snaplen: SNAPLEN,
        options: vec![
            option(OptionCode::IfName, b"lava0"),
            option(OptionCode::IfDescription, b"the guest's only network card"),
        ],
        block_len2: 0,
        if_tsresol: NANOSECONDS,
        if_tsoffset: 0,
    }
}

/// An option shorter than 64 KiB, as all of ours are. The crate pads it.
fn option(code: OptionCode, value: &[u8]) -> PcapNGOption<'static> {
    PcapNGOption { code, len: u16::try_from(value.len()).unwrap_or(0), value: Cow::Owned(value.to_vec()) }
}

fn serialize(block: &mut impl ToVec) -> io::Result<Vec<u8>> {
    block.to_vec().map_err(|error| io::Error::other(format!("block cannot be serialized: {error}")))
}
