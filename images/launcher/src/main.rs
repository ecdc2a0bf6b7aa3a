//! The launcher: puts the opened thing into the guest and starts it, as an ordinary user.
//!
//! It is the one program of ours in the guest, and it only launches: it observes nothing and reports nothing but how
//! the task ended, and, asked for it, what an archive was unpacked to. Everything LAVA knows of the task it knows from outside.
//!
//! Over the virtio-serial port `lava.task` it says `{"ready":1}`, then serves one header after the other
//! ([`header::Header`]): a task with its bytes, a request for a directory's files, to restart or to switch off, or the identity a clone takes on. The task is this process's
//! direct child, by one fork and one exec, so that from outside the first exec of that child is the task's own.
//!
//! Limits: one task at a time, on one port; a malformed header is answered with an error, and the rest of its bytes
//! can't be told from headers, so the host closes and reopens the port then.
#![deny(unsafe_code)]

mod header;
mod identity;
mod keystore;
mod members;
mod port;
mod serve;
mod task;
mod trust;

use std::time::Duration;

/// How long to rest when the host has closed its side of the port: virtio-serial reports end of file until it reopens.
const PORT_REST: Duration = Duration::from_millis(100);

fn main() {
    let system = task::Guest;
    loop {
        let Some(port) = port::open(port::NAME) else {
            std::thread::sleep(PORT_REST);
            continue;
        };
        // An error of the port is answered by opening it anew: there is nobody else to tell.
        let _closed = serve::serve(&port, &system);
        drop(port);
        std::thread::sleep(PORT_REST);
    }
}
