//! The tasks that wait and run. Each runs as a `lava run` process of its own, in a process group of its own: the server can end and
//! come back, and the session does not notice. Which process it is stands in the store, with the time it began, because numbers are
//! given again.
//!
//! *Limits:* a service manager that kills a whole control group (systemd's default) kills the sessions too: use `KillMode=process`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crate::app::App;
use crate::error::{Answer, ApiError};
use crate::lock;
use crate::retention;
use crate::sessions::folder;
use crate::store::index::Gathered;
use crate::store::{Job, JobState};

/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks for sessions that are over and cannot be searched yet.
const GATHER: Duration = Duration::from_secs(5);
/// Between two looks for sessions that are kept no longer.
const KEEP: Duration = Duration::from_secs(60);
/// Jobs that may wait.
pub const MAX_QUEUED: u32 = 100;
/// Bytes of a run's last words that are kept.
const WORDS: u64 = 2048;

/// Wakes one thread before its time.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Bell {
    /// Says that there is something to do.
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_all();
    }

    fn wait(&self, most: Duration) {
        let rung = lock(&self.rung);
        let (mut rung, _) =
            self.bell.wait_timeout_while(rung, most, |rung| !*rung).unwrap_or_else(std::sync::PoisonError::into_inner);
        *rung = false;
    }
}

/// The processes that this server started, and a bell for each thread that looks after something.
#[derive(Default)]
pub struct Queue {
    ours: Mutex<HashMap<String, Child>>,
    starting: Bell,
    gathering: Bell,
    /// For what is kept how long.
    pub keeping: Bell,
}

/// The folder of a job's upload and output.
pub fn spool(app: &App, id: &str) -> PathBuf {
    app.config.state.join("spool").join(id)
}

impl Queue {
    /// Says that there is something to do.
    pub fn ring(&self) {
        self.starting.ring();
    }

    /// Takes a job that waits from the queue.
    ///
    /// # Errors
    /// If it does not wait any more.
    pub fn cancel(&self, app: &App, id: &str, by: &str) -> Answer<()> {
        // Whoever starts jobs holds this too: it is started or cancelled, never both.
        let _ours = lock(&self.ours);
        let waits = app.store.jobs(JobState::Queued)?.iter().any(|job| job.id == id);
        if !waits {
            return Err(ApiError::conflict("it does not wait in the queue any more"));
        }
        app.store.job_over(id, Some(&format!("taken from the queue by {by}")))?;
        clean(app, id);
        Ok(())
    }
}

/// Starts the threads that start jobs, make sessions searchable and remove those that are kept no longer; they end with the server.
///
/// # Errors
/// If the system has no thread left.
pub fn start(app: &Arc<App>) -> std::io::Result<()> {
    let run = |app: Weak<App>, work: fn(&App) -> Answer<()>, bell: fn(&Queue) -> &Bell, apart: Duration| {
        move || {
            while let Some(app) = app.upgrade() {
                if let Err(error) = work(&app) {
                    eprintln!("lava serve: {}", error.message());
                }
                bell(&app.queue).wait(apart);
            }
        }
    };
    let builder = |name: &str| std::thread::Builder::new().name(name.into());
    builder("queue").spawn(run(Arc::downgrade(app), look, |queue| &queue.starting, LOOK))?;
    builder("index").spawn(run(Arc::downgrade(app), gather, |queue| &queue.gathering, GATHER))?;
    builder("retention").spawn(run(Arc::downgrade(app), retention::enforce, |queue| &queue.keeping, KEEP))?;
    Ok(())
}

/// Looks after what runs, and starts what waits.
fn look(app: &App) -> Answer<()> {
    let mut ours = lock(&app.queue.ours);
    let mut running = 0;
    for job in app.store.jobs(JobState::Running)? {
        if runs(&job, &mut ours) {
            running += 1;
        } else {
            over(app, &job.id)?;
        }
    }
    for job in app.store.jobs(JobState::Queued)? {
        if running >= app.config.max_running {
            break;
        }
        match launch(app, &job) {
            Ok(child) => {
                app.store.job_started(&job.id, (child.id(), began(child.id()).unwrap_or(0)))?;
                ours.insert(job.id, child);
                running += 1;
            }
            Err(error) => {
                app.store.job_over(&job.id, Some(&format!("cannot be started: {error}")))?;
                clean(app, &job.id);
            }
        }
    }
    Ok(())
}

/// Whether the job's process lives: ours, or one that a server before us started.
fn runs(job: &Job, ours: &mut HashMap<String, Child>) -> bool {
    if let Some(child) = ours.get_mut(&job.id) {
        let lives = matches!(child.try_wait(), Ok(None));
        if !lives {
            ours.remove(&job.id);
        }
        return lives;
    }
    job.process.is_some_and(|(pid, start)| began(pid) == Some(start))
}

/// When a process that lives began, in the kernel's ticks since boot: field 22 of /proc/PID/stat (proc_pid_stat(5)).
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

fn launch(app: &App, job: &Job) -> std::io::Result<Child> {
    let place = spool(app, &job.id);
    let output = File::create(place.join("output.log"))?;
    // An upload's name has no slash.
    let task =
        if lava_event::is_address(&job.name) { PathBuf::from(&job.name) } else { place.join("task").join(&job.name) };
    Command::new(&app.config.program)
        .arg("run")
        .args(&job.arguments)
        .arg("--id")
        .arg(&job.id)
        .arg("--out")
        .arg(&app.config.sessions)
        .arg("--")
        .arg(task)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
}

fn over(app: &App, id: &str) -> Answer<()> {
    let nothing = folder::find(&app.config.sessions, id).is_none();
    let words = nothing.then(|| last_words(&spool(app, id).join("output.log")));
    app.store.job_over(id, words.as_deref())?;
    clean(app, id);
    Ok(())
}

fn last_words(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(WORDS)))?;
        let mut words = Vec::new();
        file.take(WORDS).read_to_end(&mut words)?;
        Ok(words)
    };
    let words = read().unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace(|c: char| c.is_control() && c != '\n', " ");
    if words.trim().is_empty() { "lava run ended without a word".to_owned() } else { words.trim().to_owned() }
}

/// Removes what is needed no more: the task itself is among the session's artifacts.
fn clean(app: &App, id: &str) {
    // What cannot be removed now is in nobody's way.
    let _ = fs::remove_dir_all(spool(app, id));
}

/// Makes sessions that are over searchable, and forgets those that are gone.
fn gather(app: &App) -> Answer<()> {
    let root = &app.config.sessions;
    let done = app.index.done()?;
    let all = folder::list(root, usize::MAX, None);
    let there: HashSet<&String> = all.iter().collect();
    for id in done.iter().filter(|id| !there.contains(id)) {
        app.index.forget(id)?;
    }
    for id in all.iter().filter(|id| !done.contains(*id)) {
        // A damaged one is listed as such; there is nothing to search in it.
        let Ok(facts) = app.facts.of(root, id) else { continue };
        if facts.is_over()
            && let Ok(session) = folder::open(root, id)
            && let Ok(gathered) = Gathered::of(&session)
        {
            app.index.add(id, &gathered)?;
        }
    }
    Ok(())
}
