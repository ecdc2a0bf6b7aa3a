//! Making a copy of a machine into one of its own: clock, randomness, names.
//!
//! A clone goes on with the memory of its template: the same random state, the same clock reading, the same identifiers. Before the
//! task starts each is made the clone's own, from what the host sends.
//!
//! Limits: a program that runs since the template's boot may have read the old identifiers or drawn random bytes already.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_settime};
use serde::Deserialize;

/// Bytes of randomness that are taken.
const SEED: usize = 64;

/// Who the machine is from now on.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Random bytes, hexadecimal, 64 of them.
    pub seed: String,
    /// The time, ns since 1970.
    pub now_ns: u64,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// The host's name.
    pub host_name: String,
    /// The network card's address, six bytes, hexadecimal; none: there is no card.
    #[serde(default)]
    pub mac: Option<String>,
}

/// `struct rand_pool_info` (include/uapi/linux/random.h) with its bytes.
#[repr(C)]
struct Pool {
    entropy_bits: i32,
    size: i32,
    bytes: [u8; SEED],
}

/// `struct ifreq` with an Ethernet address (include/uapi/linux/if.h, include/uapi/linux/socket.h).
#[repr(C)]
struct Request {
    name: [u8; 16],
    family: u16,
    address: [u8; 6],
    rest: [u8; 16],
}

/// `RNDADDENTROPY`, `RNDRESEEDCRNG` (include/uapi/linux/random.h), `SIOCSIFHWADDR` (include/uapi/linux/sockios.h).
const ADD_ENTROPY: u32 = 0x4008_5203;
const RESEED: u32 = 0x5207;
const SET_ADDRESS: u32 = 0x8924;
/// `ARPHRD_ETHER` (include/uapi/linux/if_arp.h).
const ETHERNET: u16 = 1;

impl Identity {
    /// Takes the identity on; the first thing that fails ends it.
    pub fn take(&self) -> Result<(), String> {
        let step = |what: &str, done: io::Result<()>| done.map_err(|error| format!("{what}: {error}"));
        step("randomness", self.reseed())?;
        step("clock", self.set_clock())?;
        step("host name", self.rename())?;
        step("machine id", self.set_machine_id())?;
        self.mac.as_deref().map_or(Ok(()), |mac| step("network address", set_address(mac)))
    }

    fn set_clock(&self) -> io::Result<()> {
        let now = Duration::from_nanos(self.now_ns);
        let seconds = i64::try_from(now.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: i64::from(now.subsec_nanos()) })?)
    }

    #[allow(unsafe_code)]
    fn reseed(&self) -> io::Result<()> {
        let pool = Pool { entropy_bits: 8 * SEED as i32, size: SEED as i32, bytes: hex(&self.seed)? };
        let random = File::options().write(true).open("/dev/urandom")?;
        // SAFETY: RNDADDENTROPY reads a rand_pool_info followed by `size` bytes: Pool has that layout and that many bytes.
        unsafe { rustix::ioctl::ioctl(&random, rustix::ioctl::Setter::<ADD_ENTROPY, Pool>::new(pool)) }?;
        // SAFETY: RNDRESEEDCRNG takes no argument.
        unsafe { rustix::ioctl::ioctl(&random, rustix::ioctl::NoArg::<RESEED>::new()) }?;
        Ok(())
    }

    fn rename(&self) -> io::Result<()> {
        rustix::system::sethostname(self.host_name.as_bytes())?;
        fs::write("/etc/hostname", format!("{}\n", self.host_name))
    }

    fn set_machine_id(&self) -> io::Result<()> {
        let _: [u8; 16] = hex(&self.machine_id)?;
        let line = format!("{}\n", self.machine_id);
        // systemd binds its own, made at boot, read-only over the file; underneath it is writable.
        fs::write("/etc/machine-id", &line).or_else(|_| fs::write("/run/machine-id", &line))
    }
}

#[allow(unsafe_code)]
fn set_address(mac: &str) -> io::Result<()> {
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"eth0");
    let request = Request { name, family: ETHERNET, address: hex(mac)?, rest: [0; 16] };
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: SIOCSIFHWADDR reads a struct ifreq: 16 bytes of name, then 24 of which a sockaddr of 16 is looked at.
    unsafe { rustix::ioctl::ioctl(socket.as_fd(), rustix::ioctl::Setter::<SET_ADDRESS, Request>::new(request)) }?;
    Ok(())
}

fn hex<const N: usize>(text: &str) -> io::Result<[u8; N]> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("not {N} hexadecimal bytes"));
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(hex::<2>("0aFf").expect("hex"), [10, 255]);
        for wrong in ["", "0a", "0a0b0c", "xx00", "ä0a"] {
            assert!(hex::<2>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn layouts_are_the_kernel_s() {
        assert_eq!((size_of::<Pool>(), size_of::<Request>()), (8 + SEED, 40));
    }
}
