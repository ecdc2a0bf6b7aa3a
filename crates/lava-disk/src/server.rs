//! The listening socket and its connections.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lava_event::Outlet;

use crate::base::Base;
use crate::connection::{self, Disk};
use crate::gate::Gate;
use crate::handshake::{self, Next};
use crate::lock;
use crate::protocol::WireError;
use crate::regions::Regions;
use crate::storage::Storage;
use crate::stuck::Stuck;
use crate::view::DiskView;

/// Served at the same time. QEMU has one; one more while it reconnects.
const CONNECTIONS: usize = 8;
/// How long a client may be silent during the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many complaints are kept, and printed.
const COMPLAINTS: usize = 16;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Name in the events: `vda`, `vdb`...
    pub name: String,
    /// The raw image, opened read-only.
    pub base: PathBuf,
    /// A sealed overlay on it ([`DiskView::seal`]), opened read-only: what a template's disk had become.
    pub layer: Option<PathBuf>,
    /// The disk goes on from what was kept of another session's ([`DiskView::keep`]): what that had found, which takes the layer's place, and
    /// what it left.
    pub kept: Option<[PathBuf; 2]>,
    /// Where the overlay goes: a sparse file, which must not exist. It is left behind when the server stops.
    pub overlay: PathBuf,
    /// The Unix socket. An old *socket* of that name is replaced; it is removed when the server stops. Who may connect is
    /// up to the folder it lies in.
    pub socket: PathBuf,
}

/// Why a disk cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The base, or what lies on it, cannot be opened or read, or is empty.
    #[error("the disk image {} cannot be read: {source}", path.display())]
    Base {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The overlay cannot be made, or is there already.
    #[error("the overlay {} cannot be created: {source}", path.display())]
    Overlay {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be bound (a Unix socket's path has at most 107 bytes).
    #[error("the socket {} cannot be listened on: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host gives no more threads.
    #[error("no thread for the disk: {0}")]
    Thread(#[source] io::Error),
}

struct Shared {
    name: String,
    storage: Arc<Storage>,
    gate: Gate,
    stuck: Stuck,
    open: Mutex<Open>,
    complaints: Mutex<Vec<String>>,
}

/// The connections, so that stopping can hang up.
#[derive(Default)]
struct Open {
    stopping: bool,
    last: u64,
    streams: BTreeMap<u64, UnixStream>,
}

/// A disk that is being served. Dropping it stops it.
///
/// Stopping waits for requests in progress, and so for an answer to [`Outlet::ask`]: do not drop it in the thread that
/// answers.
pub struct DiskServer {
    shared: Arc<Shared>,
    view: DiskView,
    listener: Arc<UnixListener>,
    acceptor: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl std::fmt::Debug for DiskServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskServer")
            .field("name", &self.shared.name)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl DiskServer {
    /// Opens the base, makes the overlay, listens. When it returns, QEMU may connect.
    ///
    /// # Errors
    /// [`DiskError`], one variant per thing that can be missing.
    pub fn start(config: DiskConfig, outlet: Arc<dyn Outlet>) -> Result<Self, DiskError> {
        let DiskConfig { name, base, layer, kept, overlay, socket } = config;
        let opened = match &kept {
            Some([found, _]) => Base::open_kept(&base, found),
            None => Base::open(&base, layer.as_deref()),
        };
        let below = layer.as_ref().or(kept.as_ref().map(|[found, _]| found)).unwrap_or(&base).clone();
        let opened = opened.map_err(|source| DiskError::Base { path: below, source })?;
        let storage =
            Storage::create(opened, &overlay).map_err(|source| DiskError::Overlay { path: overlay, source })?;
        let storage = Arc::new(storage);
        let regions = Regions::parse(storage.size(), |offset, buffer| storage.read(offset, buffer))
            .map_err(|source| DiskError::Base { path: base, source })?;
        let regions = Arc::new(regions);
        if let Some([_, left]) = kept {
            storage.take_over(&left).map_err(|source| DiskError::Base { path: left, source })?;
        }
        let listener = listen(&socket).map_err(|source| DiskError::Socket { path: socket.clone(), source })?;
        let listener = Arc::new(listener);

        let gate = Gate::new(name.clone(), Arc::clone(&storage), Arc::clone(&regions), outlet);
        let view = DiskView { storage: Arc::clone(&storage), regions };
        let (stuck, open, complaints) = (Stuck::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { name, storage, gate, stuck, open, complaints });
        let acceptor = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::Builder::new().name("disk-accept".to_owned()).spawn(move || accept(&shared, &listener))
        };
        let acceptor = Some(acceptor.map_err(DiskError::Thread)?);
        Ok(Self { shared, view, listener, acceptor, socket })
    }

    /// Hangs up, waits for what is in progress, reports what was summed up. The same as dropping it.
    pub fn stop(self) {
        drop(self);
    }

    /// Reads the disk as the guest would. It outlives the server.
    #[must_use]
    pub fn view(&self) -> DiskView {
        self.view.clone()
    }

    /// Tells what was only summed up so far.
    pub fn tell_sums(&self) {
        self.shared.gate.finish();
    }

    /// The first failure of the host's files (overlay's file system full, base unreadable), in a sentence. The guest got
    /// `ENOSPC` or `EIO` for it, and for each one after it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.shared.storage.fault()
    }

    /// Why connections were closed that did not end well, the first 16. QEMU gives no cause for any: something else
    /// connected, or QEMU was taken over.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.shared.complaints).clone()
    }
}

impl Drop for DiskServer {
    fn drop(&mut self) {
        {
            let mut open = lock(&self.shared.open);
            open.stopping = true;
            for stream in open.streams.values() {
                // It may have hung up already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes accept() with EINVAL (Linux, net/unix/af_unix.c: unix_accept).
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.gate.finish();
        let _ = fs::remove_file(&self.socket);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|known| known.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let accepted = listener.accept();
        threads.retain(|thread| !thread.is_finished());
        if lock(&shared.open).stopping {
            break;
        }
        let started = match accepted {
            Ok((stream, _)) => start_connection(shared, stream),
            Err(error) => {
                // Out of descriptors, say: that does not pass in a microsecond.
                thread::sleep(Duration::from_millis(100));
                Err(error)
            }
        };
        match started {
            Ok(thread) => threads.extend(thread),
            Err(error) => shared.complain(&format!("a connection could not be accepted: {error}")),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn start_connection(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<Option<JoinHandle<()>>> {
    let number = {
        let mut open = lock(&shared.open);
        if open.stopping {
            return Ok(None);
        }
        if open.streams.len() >= CONNECTIONS {
            return Err(io::Error::other("too many are open"));
        }
        open.last += 1;
        let number = open.last;
        open.streams.insert(number, stream.try_clone()?);
        number
    };
    let registered = Registered { shared: Arc::clone(shared), number };
    thread::Builder::new().name("disk-client".to_owned()).spawn(move || registered.run(&stream)).map(Some)
}

/// A connection in the list; dropping it (also by a panic of the outlet) takes it off, and hangs up.
struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Registered {
    fn run(&self, stream: &UnixStream) {
        let shared = &self.shared;
        let result = shared.serve(stream);
        shared.gate.finish();
        match result {
            Err(error) if !lock(&shared.open).stopping => shared.complain(&error.to_string()),
            _ => {}
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(stream) = lock(&self.shared.open).streams.remove(&self.number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, stream: &UnixStream) -> Result<(), WireError> {
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.set_write_timeout(Some(HANDSHAKE))?;
        let (mut from, mut to) = (stream, stream);
        if handshake::negotiate(&mut from, &mut to, self.storage.size())? == Next::End {
            return Ok(());
        }
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        connection::serve(from, to, Disk { storage: &self.storage, gate: &self.gate, stuck: &self.stuck })
    }

    fn complain(&self, what: &str) {
        let mut complaints = lock(&self.complaints);
        if complaints.len() < COMPLAINTS {
            eprintln!("lava-disk: {}: {what}", self.name);
            complaints.push(what.to_owned());
        }
    }
}
