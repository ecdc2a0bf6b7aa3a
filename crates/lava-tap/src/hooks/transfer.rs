//! Bytes through sockets, summed up per socket and process.
//!
//! The first bytes in each direction are told at once, the rest is added up and told when the socket is closed, an
//! unconnected one turns to another end, the guest is stopped from outside or restarts, or the session ends. What is counted is what
//! the kernel says it took or gave: the functions around the protocols are waited for.
//!
//! Several of these functions call each other, and which of them exist differs between kernels: the outermost one of a task
//! counts, the calls within it only say which socket it is.
//!
//! Limits: sockets of the kernel itself and netlink are left out; io_uring's plain write to a socket counts what was asked for;
//! an unconnected Unix datagram socket has no other end here; a look at bytes (`MSG_PEEK`) is no transfer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use lava_event::{Kind, NetEndpoint, Process, Protocol};
use lava_guest::linux::sock;
use lava_guest::memory::{Unreadable, Virtual};

use super::network::{self, Ends};
use crate::emit::Emitter;
use crate::introspect::Context;
use crate::registers::Register;
use crate::returns::Then;

/// Sockets kept; beyond that the sums are told early.
const MAX_SOCKETS: usize = 32 * 1024;
/// Calls under way.
const MAX_CALLS: usize = 16 * 1024;
/// `MSG_PEEK` and `MSG_ERRQUEUE` (include/linux/socket.h).
const NO_DATA: u64 = 0x2 | 0x2000;
/// A kernel stack (`THREAD_SIZE`, arch/x86/include/asm/page_64_types.h, KASAN left out).
const STACK: u64 = 16 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Sent,
    Received,
}

/// What went through one socket for one process since it was last told.
struct Record {
    /// Address of the process's first task, and its number: who it is, without reading more.
    owner: (u64, u32),
    process: Process,
    ends: Ends,
    sent: u64,
    received: u64,
    sends: u64,
    receives: u64,
    /// Directions that were told at least once.
    told: [bool; 2],
}

impl Record {
    fn add(&mut self, way: Way, bytes: u64) -> bool {
        let (sum, count) = match way {
            Way::Sent => (&mut self.sent, &mut self.sends),
            Way::Received => (&mut self.received, &mut self.receives),
        };
        *sum = sum.saturating_add(bytes);
        *count += 1;
        !std::mem::replace(&mut self.told[way as usize], true)
    }

    fn tell(&mut self, emitter: &Emitter, vcpu: u32) {
        if self.sends == 0 && self.receives == 0 {
            return;
        }
        let ends = self.ends.clone();
        let kind = Kind::NetTransfer {
            protocol: ends.protocol,
            local: ends.local,
            remote: ends.remote,
            path: ends.path,
            socket: ends.inode,
            peer: ends.peer,
            sent: std::mem::take(&mut self.sent),
            received: std::mem::take(&mut self.received),
            sends: std::mem::take(&mut self.sends),
            receives: std::mem::take(&mut self.receives),
        };
        emitter.emit(vcpu, Some(self.process.clone()), kind);
    }
}

/// A call under way in a task: where its stack was, on which socket (once that is known), and where a datagram goes.
#[derive(Clone, Copy)]
struct Call {
    stack: u64,
    socket: Option<u64>,
    to: Option<NetEndpoint>,
}

/// By the address of the `struct socket` and of the process's first task.
type Records = BTreeMap<(u64, u64), Record>;

/// What went through sockets, and calls by the address of their task.
#[derive(Default)]
pub struct Transfers {
    records: Mutex<Records>,
    calls: Mutex<HashMap<u64, Call>>,
}

impl Transfers {
    /// Tells all sums: the guest is being stopped. Who holds the sockets just now is in a hook, and comes to rest later.
    pub fn tell_sums(&self, emitter: &Emitter, vcpu: u32) {
        if let Ok(mut records) = self.records.try_lock() {
            records.values_mut().for_each(|record| record.tell(emitter, vcpu));
        }
    }

    /// Tells all sums and forgets the sockets.
    pub fn flush_all(&self, emitter: &Emitter) {
        if let Ok(mut records) = self.records.lock() {
            std::mem::take(&mut *records).values_mut().for_each(|record| record.tell(emitter, 0));
        }
        if let Ok(mut calls) = self.calls.lock() {
            calls.clear();
        }
    }
}

/// What the outermost call came to: the socket and the result.
type Done = Box<dyn FnOnce(&Context<'_>, u64, Option<NetEndpoint>, u64) -> Result<(), Unreadable> + Send>;

/// Begins a call of the acting task; nothing within another one. `done` gets the socket and a result that is no error.
pub fn around(context: &Context<'_>, socket: Option<u64>, done: Done) -> Result<Option<Then>, Unreadable> {
    let (task, stack) = (context.current_address()?, context.register(Register::Rsp));
    let Ok(mut calls) = context.tap.transfers.calls.lock() else { return Ok(None) };
    // One that never returned (its result was lost) is not further out: its stack is another, or deeper.
    let within = calls.get(&task).is_some_and(|call| stack < call.stack && call.stack - stack < STACK);
    if within || calls.len() >= MAX_CALLS {
        return Ok(None);
    }
    calls.insert(task, Call { stack, socket, to: None });
    drop(calls);
    Ok(Some(Box::new(move |context, result| {
        let call = context.tap.transfers.calls.lock().ok().and_then(|mut calls| calls.remove(&task));
        let Some(Call { socket: Some(socket), to, .. }) = call else { return Ok(()) };
        match result.0 {
            // Errors are negative, in 32 or 64 bits (sockets take at most `MAX_RW_COUNT`, below 2 GiB, at once).
            Some(value) if value as u32 as i32 >= 0 => done(context, socket, to, value & 0x7fff_ffff),
            _ => Ok(()),
        }
    })))
}

/// A call within: says which socket the call around it is on. False if there is none around it.
pub fn within(context: &Context<'_>, socket: u64, to: Option<NetEndpoint>) -> Result<bool, Unreadable> {
    let task = context.current_address()?;
    let Ok(mut calls) = context.tap.transfers.calls.lock() else { return Ok(false) };
    let Some(call) = calls.get_mut(&task) else { return Ok(false) };
    call.socket = Some(socket);
    call.to = to.or(call.to);
    Ok(true)
}

/// True for sockets of processes. Kernel sockets have no file.
fn is_of_a_process(context: &Context<'_>, socket: u64) -> Result<bool, Unreadable> {
    let Some(offsets) = &context.tap.sockets else { return Ok(false) };
    Ok(context.memory().u64(socket.wrapping_add(offsets.file))? != 0)
}

fn sending() -> Done {
    Box::new(|context, socket, to, bytes| count(context, socket, Way::Sent, bytes, to))
}

/// `__sys_sendto(fd, ..)`: the socket is known at the LSM hook within.
pub fn sendto(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    around(context, None, sending())
}

/// `____sys_sendmsg(sock, ..)`, `sock_sendmsg(sock, ..)`, `kernel_sendpage(sock, ..)`
pub fn send(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let socket = context.argument(0)?;
    if is_of_a_process(context, socket)? { around(context, Some(socket), sending()) } else { Ok(None) }
}

/// `vfs_write(file, ..)`, `vfs_writev(file, ..)`: of sockets.
pub fn write(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    match socket_of(context, context.argument(0)?)? {
        Some(socket) => around(context, Some(socket), sending()),
        None => Ok(None),
    }
}

/// `do_splice_to(in, ..)`: from a socket into a pipe.
pub fn splice(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    let receiving: Done = Box::new(|context, socket, _, bytes| count(context, socket, Way::Received, bytes, None));
    match socket_of(context, context.argument(0)?)? {
        Some(socket) => around(context, Some(socket), receiving),
        None => Ok(None),
    }
}

/// The socket of an open file, if it is one.
fn socket_of(context: &Context<'_>, file: u64) -> Result<Option<u64>, Unreadable> {
    /// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
    const TYPE: u16 = 0o170_000;
    const SOCKET: u16 = 0o140_000;
    let (memory, layout) = (context.memory(), context.layout());
    let Some(offsets) = &context.tap.sockets else { return Ok(None) };
    let inode = memory.pointer(file.wrapping_add(layout.file.f_inode))?;
    if memory.u16(inode.wrapping_add(layout.inode.i_mode))? & TYPE != SOCKET {
        return Ok(None);
    }
    memory.pointer(file.wrapping_add(offsets.private_data)).map(Some)
}

/// `security_socket_sendmsg(sock, msg, size)`: before each send by a process.
pub fn sends(context: &Context<'_>) -> Result<(), Unreadable> {
    let socket = context.argument(0)?;
    if !is_of_a_process(context, socket)? {
        return Ok(());
    }
    let to = network::message_address(context, context.argument(1)?);
    if within(context, socket, to)? {
        return Ok(());
    }
    count(context, socket, Way::Sent, context.argument(2)? & 0x7fff_ffff, to)
}

/// `sock_recvmsg(sock, msg, flags)`
pub fn receive(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    received(context, context.argument(0)?, context.argument(1)?, context.argument(2)?)
}

/// `____sys_recvmsg(sock, msg_sys, .., flags, nosec)`: recvmmsg asks the LSM only once.
pub fn receive_more(context: &Context<'_>) -> Result<Option<Then>, Unreadable> {
    if context.argument(3)? & 0xffff_ffff == 0 {
        return Ok(None);
    }
    received(context, context.argument(0)?, context.argument(1)?, context.argument(2)?)
}

fn received(context: &Context<'_>, socket: u64, message: u64, flags: u64) -> Result<Option<Then>, Unreadable> {
    if flags & NO_DATA != 0 || !is_of_a_process(context, socket)? {
        return Ok(None);
    }
    let done: Done = Box::new(move |context, socket, _, bytes| {
        // The message is the caller's, and holds the sender by now.
        let from = network::message_address(context, message);
        count(context, socket, Way::Received, bytes, from)
    });
    around(context, Some(socket), done)
}

/// Adds bytes that went through a socket.
fn count(
    context: &Context<'_>,
    socket: u64,
    way: Way,
    bytes: u64,
    other: Option<NetEndpoint>,
) -> Result<(), Unreadable> {
    let (memory, layout) = (context.memory(), context.layout());
    // The end of a stream is no transfer; an empty datagram is one.
    if bytes == 0 && memory.u16(socket.wrapping_add(layout.socket.kind))? != sock::DATAGRAM {
        return Ok(());
    }
    let task = context.current_address()?;
    let leader = memory.pointer(task.wrapping_add(layout.task.group_leader))?;
    let owner = (leader, memory.u32(task.wrapping_add(layout.task.tgid))?);
    let Ok(mut records) = context.tap.transfers.records.lock() else { return Ok(()) };
    let emitter = &context.tap.emitter;
    if let Some(record) = records.get_mut(&(socket, leader))
        && record.owner == owner
        && (other.is_none() || record.ends.connected || record.ends.remote == other)
    {
        if record.add(way, bytes) {
            record.refresh(context, socket);
            record.tell(emitter, context.vcpu);
        }
        return Ok(());
    }
    let Some(mut ends) = network::ends(context, socket)? else { return Ok(()) };
    if let Some(mut old) = records.remove(&(socket, leader)) {
        old.tell(emitter, context.vcpu);
    }
    // Known since another process accepted it, and perhaps gone by now.
    ends.peer = ends.peer.or_else(|| of(&records, socket).find_map(|(_, record)| record.ends.peer));
    if !ends.connected {
        ends.remote = other;
    }
    make_room(&mut records, emitter, context.vcpu);
    let mut record = Record::new(owner, context.process(&context.current()?), ends);
    record.add(way, bytes);
    record.tell(emitter, context.vcpu);
    records.insert((socket, leader), record);
    Ok(())
}

/// What each process did with a socket.
fn of(records: &Records, socket: u64) -> impl Iterator<Item = (&(u64, u64), &Record)> {
    records.range((socket, 0)..=(socket, u64::MAX))
}

fn make_room(records: &mut Records, emitter: &Emitter, vcpu: u32) {
    if records.len() >= MAX_SOCKETS {
        records.values_mut().for_each(|record| record.tell(emitter, vcpu));
        records.clear();
    }
}

impl Record {
    fn new(owner: (u64, u32), process: Process, ends: Ends) -> Self {
        Self { owner, process, ends, sent: 0, received: 0, sends: 0, receives: 0, told: [false; 2] }
    }

    /// What was not known of the ends at first may be by now (a name, the other end).
    fn refresh(&mut self, context: &Context<'_>, socket: u64) {
        if let Ok(Some(now)) = network::ends(context, socket) {
            self.ends.local = now.local.or(self.ends.local);
            self.ends.remote = now.remote.or(self.ends.remote);
            self.ends.peer = now.peer.or(self.ends.peer);
            self.ends.path = now.path.or(self.ends.path.take());
        }
    }
}

/// A Unix connection was accepted: its other end is known now, and may be gone when bytes arrive.
pub fn accepted(context: &Context<'_>, socket: u64, process: &Process, ends: &Ends) -> Result<(), Unreadable> {
    if ends.protocol != Protocol::Unix {
        return Ok(());
    }
    let (memory, layout, task) = (context.memory(), context.layout(), context.current_address()?);
    let leader = memory.pointer(task.wrapping_add(layout.task.group_leader))?;
    if let Ok(mut records) = context.tap.transfers.records.lock() {
        make_room(&mut records, &context.tap.emitter, context.vcpu);
        records.insert((socket, leader), Record::new((leader, process.pid), process.clone(), ends.clone()));
    }
    Ok(())
}

/// `__sock_release(sock, inode)`: the socket is closed for good.
pub fn release(context: &Context<'_>) -> Result<(), Unreadable> {
    let socket = context.argument(0)?;
    let Ok(mut records) = context.tap.transfers.records.lock() else { return Ok(()) };
    let users: Vec<_> = of(&records, socket).map(|(key, _)| *key).collect();
    for mut record in users.iter().filter_map(|key| records.remove(key)).collect::<Vec<_>>() {
        record.tell(&context.tap.emitter, context.vcpu);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_way_is_told_at_once() {
        let process = Process {
            pid: 1,
            tid: 1,
            start_ns: 0,
            ppid: 0,
            uid: 0,
            comm: lava_event::GuestText::default(),
            exe: lava_event::GuestText::default(),
        };
        let mut record = Record::new((1, 1), process, Ends::default());
        assert!(record.add(Way::Sent, 5));
        assert!(!record.add(Way::Sent, u64::MAX), "later ones are summed up");
        assert!(record.add(Way::Received, 0), "an empty datagram counts");
        assert_eq!((record.sent, record.sends, record.received, record.receives), (u64::MAX, 2, 0, 1));
    }
}
