//! What an overlay lies on: an image, and on it, where there is one, the sealed overlay of a template, or what a session had found that
//! this one goes on from (`kept`).
//!
//! A sealed overlay is two files: the sparse overlay itself, and beside it its map (`.map`): a magic number, the disk's size, and
//! one bit for each cluster of 4 KiB that is in the overlay.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::kept::{Difference, pieces};
use crate::regions::SECTOR;

/// The unit in which an overlay holds bytes.
pub(crate) const CLUSTER: u64 = 4096;
const MAGIC: &[u8; 8] = b"LAVAMAP1";

/// Read-only bytes of a disk.
#[derive(Debug)]
pub(crate) struct Base {
    image: File,
    /// Bytes in the image; behind them, in the rest of its last sector, there are zeroes.
    len: u64,
    size: u64,
    layer: Option<Layer>,
}

#[derive(Debug)]
struct Layer {
    bytes: Bytes,
    present: Vec<u64>,
}

/// Where a layer's bytes are.
#[derive(Debug)]
enum Bytes {
    /// A sealed overlay: at their places in a file as long as the disk.
    Sealed(File),
    /// What was kept of a session's disk.
    Kept(Difference),
}

impl Base {
    /// Opens an image, and the sealed overlay on it.
    pub(crate) fn open(image: &Path, layer: Option<&Path>) -> io::Result<Self> {
        let mut base = Self::image(image)?;
        base.layer = layer.map(|path| Layer::open(path, base.size)).transpose()?;
        Ok(base)
    }

    /// Opens an image, and on it what a session had found, as its difference tells.
    pub(crate) fn open_kept(image: &Path, found: &Path) -> io::Result<Self> {
        let mut base = Self::image(image)?;
        base.layer = Some(Layer::kept(Difference::open(found, base.size)?, base.size));
        Ok(base)
    }

    fn image(image: &Path) -> io::Result<Self> {
        let mut image = File::open(image)?;
        let len = image.seek(SeekFrom::End(0))?;
        if len == 0 {
            return Err(invalid("the image is empty"));
        }
        let size = len.checked_next_multiple_of(SECTOR).ok_or_else(|| invalid("the image is too long"))?;
        Ok(Self { image, len, size, layer: None })
    }

    /// Bytes, a multiple of [`SECTOR`].
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads; the caller has checked that it ends before [`Base::size`].
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Some(layer) = &self.layer else { return self.read_image(offset, buffer) };
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let mut cluster = at / CLUSTER;
            let present = is_set(&layer.present, cluster);
            while (cluster + 1) * CLUSTER < end && is_set(&layer.present, cluster + 1) == present {
                cluster += 1;
            }
            let run_end = ((cluster + 1) * CLUSTER).min(end);
            let part = &mut buffer[(at - offset) as usize..(run_end - offset) as usize];
            if present {
                layer.read(at, part)?;
            } else {
                self.read_image(at, part)?;
            }
            at = run_end;
        }
        Ok(())
    }

    fn read_image(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inside = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (inside, behind) = buffer.split_at_mut(inside);
        behind.fill(0);
        self.image.read_exact_at(inside, offset)
    }

    /// The clusters that the layer holds, by words of 64 bits.
    pub(crate) fn layer_words(&self) -> &[u64] {
        self.layer.as_ref().map_or(&[], |layer| &layer.present)
    }

    /// The bits of clusters that a layer holds already: they are part of the overlay that is sealed on top of it.
    pub(crate) fn layer_is_none(&self) -> bool {
        self.layer.is_none()
    }
}

impl Layer {
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut map = Vec::new();
        let words = size.div_ceil(CLUSTER).div_ceil(64);
        // One byte more than there should be, so that a longer file is seen.
        File::open(map_of(path))?.take(16 + words * 8 + 1).read_to_end(&mut map)?;
        let (head, bits) = map.split_at_checked(16).ok_or_else(|| invalid("the overlay's map is cut off"))?;
        if head[..8] != *MAGIC || head[8..] != size.to_le_bytes() || bits.len() as u64 != words * 8 {
            return Err(invalid("the overlay's map does not belong to this image"));
        }
        if file.metadata()?.len() != size {
            return Err(invalid("the overlay is not as long as its image"));
        }
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(Self { bytes: Bytes::Sealed(file), present: bits.chunks(8).map(word).collect() })
    }

    fn kept(difference: Difference, size: u64) -> Self {
        let mut present = vec![0; size.div_ceil(CLUSTER).div_ceil(64) as usize];
        for (cluster, _) in difference.clusters() {
            if let Some(word) = present.get_mut((cluster / 64) as usize) {
                *word |= 1 << (cluster % 64);
            }
        }
        Self { bytes: Bytes::Kept(difference), present }
    }

    /// Reads what is in the layer from its first byte to its last.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.bytes {
            Bytes::Sealed(file) => file.read_exact_at(buffer, offset),
            Bytes::Kept(difference) => {
                let mut at = offset;
                for piece in pieces(offset, buffer) {
                    let next = at + piece.len() as u64;
                    difference.read(at / CLUSTER, at % CLUSTER, piece)?;
                    at = next;
                }
                Ok(())
            }
        }
    }
}

/// Writes the map that makes an overlay a layer.
pub(crate) fn write_map(overlay: &Path, size: u64, present: impl Iterator<Item = u64>) -> io::Result<()> {
    let mut bytes = [&MAGIC[..], &size.to_le_bytes()].concat();
    present.for_each(|word| bytes.extend(word.to_le_bytes()));
    let mut file = File::options().write(true).create_new(true).open(map_of(overlay))?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// The map beside an overlay.
pub(crate) fn map_of(overlay: &Path) -> PathBuf {
    let mut name = overlay.as_os_str().to_owned();
    name.push(".map");
    name.into()
}

/// The numbers of the clusters whose bits are set, ascending, as far as there are clusters.
pub(crate) fn set_bits(words: impl Iterator<Item = u64>, size: u64) -> Vec<u64> {
    let bits =
        |(at, word): (usize, u64)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u64 * 64 + bit);
    words.enumerate().flat_map(bits).filter(|cluster| *cluster < size.div_ceil(CLUSTER)).collect()
}

fn is_set(bits: &[u64], cluster: u64) -> bool {
    bits.get((cluster / 64) as usize).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
}

pub(crate) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
