//! The container: a ZIP file (PKWARE APPNOTE 6.3.10) in one canonical form.
//!
//! Every header is a function of what the signed list says of the members. So a reader rebuilds the headers and compares them, and
//! there is no field that could be changed unseen: no extra field, no comment, no time (1980-01-01), no gap. Files are regular, readable
//! and writable for their owner only, and not executable. What needs more than 32 bits gets the ZIP64 field, and nothing else does.
//!
//! It is written here and not by the `zip` crate: that reads (as it should) many forms of the same archive, where a verifier has to
//! refuse all but one, and may write another form in its next version. The contents are deflated and inflated by `flate2`.

/// How a member is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    /// As it is.
    Stored,
    /// RFC 1951.
    Deflated,
}

/// What the headers say of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    /// Path in the bundle; plain ASCII.
    pub(super) name: String,
    pub(super) method: Method,
    /// Bytes of content.
    pub(super) size: u64,
    /// Bytes in the file.
    pub(super) packed: u64,
    /// CRC-32 of the content.
    pub(super) crc: u32,
}

/// Bytes of a local header before the name.
pub(super) const LOCAL: usize = 30;
/// Longest header with its name and ZIP64 field.
pub(super) const LONGEST_HEADER: usize = LOCAL + super::list::MAX_NAME + 20;
const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";
const CENTRAL_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
/// 4.5: the ZIP64 format extensions (APPNOTE 4.4.3.2).
const VERSION: u16 = 45;
/// Made by UNIX (3), version as above (APPNOTE 4.4.2).
const MADE_BY: u16 = 3 << 8 | VERSION;
/// 1980-01-01, the earliest date (MS-DOS form).
const DATE: u16 = 1 << 5 | 1;
/// Regular file, 0600: `st_mode` in the upper half (Info-ZIP).
const ATTRIBUTES: u32 = 0o100_600 << 16;
const FULL: u32 = u32::MAX;

impl Member {
    /// Bytes from the member's header to its content's end.
    pub(super) fn span(&self) -> u64 {
        self.local().len() as u64 + self.packed
    }

    fn is_long(&self) -> bool {
        self.size >= u64::from(FULL) || self.packed >= u64::from(FULL)
    }

    /// Version, flags, method, time, date, CRC.
    fn common(&self, out: &mut Vec<u8>) {
        let method: u16 = if self.method == Method::Stored { 0 } else { 8 };
        for number in [VERSION, 0, method, 0, DATE] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.crc.to_le_bytes());
    }

    /// The header in front of the content.
    pub(super) fn local(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LONGEST_HEADER);
        out.extend(LOCAL_SIGNATURE);
        self.common(&mut out);
        let long = self.is_long();
        let (packed, size) = if long { (FULL, FULL) } else { (self.packed as u32, self.size as u32) };
        out.extend(packed.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend(if long { 20u16 } else { 0 }.to_le_bytes());
        out.extend(self.name.as_bytes());
        if long {
            extra(&mut out, &[self.size, self.packed]);
        }
        out
    }

    /// The entry in the directory; `offset` is where its local header begins.
    pub(super) fn central(&self, offset: u64, out: &mut Vec<u8>) {
        out.extend(CENTRAL_SIGNATURE);
        out.extend(MADE_BY.to_le_bytes());
        self.common(out);
        let (far, long) = (offset >= u64::from(FULL), self.is_long());
        let mut more = Vec::new();
        if long {
            more.extend([self.size, self.packed]);
        }
        if far {
            more.push(offset);
        }
        let (packed, size) = if long { (FULL, FULL) } else { (self.packed as u32, self.size as u32) };
        out.extend(packed.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend((self.name.len() as u16).to_le_bytes());
        let extra_len = if more.is_empty() { 0 } else { 4 + 8 * more.len() as u16 };
        out.extend(extra_len.to_le_bytes());
        out.extend([0; 6]); // No comment, first disk, binary.
        out.extend(ATTRIBUTES.to_le_bytes());
        out.extend(if far { FULL } else { offset as u32 }.to_le_bytes());
        out.extend(self.name.as_bytes());
        if !more.is_empty() {
            extra(out, &more);
        }
    }
}

/// The ZIP64 field (APPNOTE 4.5.3).
fn extra(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend(1u16.to_le_bytes());
    out.extend((8 * numbers.len() as u16).to_le_bytes());
    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
}

/// The directory of members that follow each other from the file's first byte on, and the records that end the file.
pub(super) fn tail<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<u8> {
    let (mut out, mut at, mut count) = (Vec::new(), 0, 0u64);
    for member in members {
        member.central(at, &mut out);
        at += member.span();
        count += 1;
    }
    let size = out.len() as u64;
    if at >= u64::from(FULL) || count >= 0xffff || size >= u64::from(FULL) {
        // APPNOTE 4.3.14 and 4.3.15.
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend(MADE_BY.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 8]);
        [count, count, size, at].iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend((at + size).to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    let short = |number: u64| u32::try_from(number).unwrap_or(FULL).to_le_bytes();
    let few = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(few);
    out.extend(few);
    out.extend(short(size));
    out.extend(short(at));
    out.extend([0; 2]);
    out
}

/// What stands at a place in a file.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A local header: the name it gives, and the bytes of it and its content, if it tells the truth.
    Local { name: String, span: u64 },
    /// The beginning of a directory, or of the records behind it.
    Directory,
    /// Neither.
    Nothing,
}

/// Looks at the bytes of a place, as a stranger's archive may have them: nothing is believed.
pub(super) fn look(bytes: &[u8]) -> Found {
    let number = |at: usize| bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    if bytes.starts_with(&LOCAL_SIGNATURE) && bytes.len() >= LOCAL {
        let (name, extra) = (usize::from(number(26)), u64::from(number(28)));
        let packed = u64::from(number(18)) | u64::from(number(20)) << 16;
        let shown = &bytes[LOCAL..bytes.len().min(LOCAL + name)];
        let span = LOCAL as u64 + name as u64 + extra + packed;
        return Found::Local { name: String::from_utf8_lossy(shown).into_owned(), span };
    }
    // Ten bytes, so that they do not stand somewhere in deflated bytes by chance.
    let (made_by, version) = (MADE_BY.to_le_bytes(), VERSION.to_le_bytes());
    let entry = [&CENTRAL_SIGNATURE[..], &made_by, &version, &[0, 0]].concat();
    let empty = b"PK\x05\x06\0\0\0\0\0\0";
    if bytes.starts_with(&entry) || bytes.starts_with(empty) { Found::Directory } else { Found::Nothing }
}
