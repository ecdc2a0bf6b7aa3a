//! `lava serve`: the console in a browser.

use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use lava_console::{Config, ProfileFacts, Role, Server, Store, Tls, password};
use lava_microvisor::Profiles;

use crate::places;

/// How long a one-time link lets somebody in, seconds.
const LINK: i64 = 15 * 60;
/// Who a link lets in who has no account: whoever may read the console's folder.
const LOCAL: &str = "local";
/// Memory that a micro-VM takes with its supervisor, bytes: 1024 MiB and what QEMU and the graph need.
const OF_ONE: u64 = 1536 << 20;

/// Options of `lava serve`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Serve {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Options {
    /// Where to listen. Others than this host only over TLS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8377))]
    listen: SocketAddr,
    #[command(flatten)]
    place: Place,
    /// Certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A name (or, behind a proxy, name:port) that the server goes by beside the address it listens on. May be given often.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Micro-VMs at a time; the others wait. Half of this host's memory if not given.
    #[arg(long, value_name = "N")]
    max_running: Option<usize>,
}

#[derive(clap::Args)]
struct Place {
    /// Folder of sessions, if not the usual one. What the console itself keeps lies in `.console` in it.
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
}

impl Place {
    fn sessions(&self) -> Result<PathBuf> {
        places::sessions(self.sessions.as_deref())
    }

    fn state(&self) -> Result<PathBuf> {
        Ok(self.sessions()?.join(".console"))
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.state()?)?)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print another one-time link, also while the server runs.
    Link {
        #[command(flatten)]
        place: Place,
        /// Where the server is reached.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8377")]
        url: String,
        /// Whom it lets in.
        #[arg(long, value_name = "NAME", default_value = LOCAL)]
        user: String,
    },
    /// Add, change, list and remove users.
    #[command(subcommand)]
    User(UserCommand),
    /// Make an API token; it is printed this once.
    Token {
        /// What it is for.
        name: String,
        #[command(flatten)]
        place: Place,
        /// Whose rights it has.
        #[arg(long, value_name = "NAME", default_value = LOCAL)]
        user: String,
    },
}

#[derive(clap::Subcommand)]
enum UserCommand {
    /// Add a user, or give one another role and password. The password is read from standard input.
    Add {
        /// The user's name.
        name: String,
        /// viewer, analyst or admin.
        #[arg(long, value_parser = role)]
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// List the users.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a user, with their logins and tokens.
    Remove {
        /// The user's name.
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| format!("one of {}", Role::ALL.map(Role::name).join(", ")))
}

/// Runs it.
pub fn run(serve: Serve) -> Result<()> {
    match serve.command {
        None => start(serve.options),
        Some(Command::Link { place, url, user }) => {
            println!("{}", link(&place.store()?, &user, url.trim_end_matches('/'))?);
            Ok(())
        }
        Some(Command::Token { name, place, user }) => {
            let name = lava_console::checked_name(&name).map_err(|error| anyhow!("{}", error.message()))?;
            let store = place.store()?;
            let user = account(&store, &user)?;
            println!("{}", store.make_token(&user, name)?.token);
            Ok(())
        }
        Some(Command::User(command)) => user(command),
    }
}

fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Add { name, role, place } => {
            let refused = |error: lava_console::ApiError| anyhow!("{}", error.message());
            let name = lava_console::checked_name(&name).map_err(refused)?;
            eprint!("password of {name}: ");
            std::io::stderr().flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).context("the password")?;
            let hash = password::hash(line.trim_end_matches(['\r', '\n'])).map_err(refused)?;
            place.store()?.put_user(name, role, Some(&hash))?;
            println!("{name} is {}", role.name());
        }
        UserCommand::List { place } => {
            for user in place.store()?.users()? {
                let how = if user.has_password { "password" } else { "link or token only" };
                println!("{:<24} {:<8} {how}", user.name, user.role.name());
            }
        }
        UserCommand::Remove { name, place } => {
            if !place.store()?.remove_user(&name)? {
                bail!("there is no user {name}: `lava serve user list` lists them");
            }
        }
    }
    Ok(())
}

fn start(options: Options) -> Result<()> {
    let tls = options.tls_cert.zip(options.tls_key).map(|(certificate, key)| Tls { certificate, key });
    if !options.listen.ip().is_loopback() && tls.is_none() {
        bail!(
            "{} can be reached from other machines: that needs --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy",
            options.listen
        );
    }
    let sessions = options.place.sessions()?;
    std::fs::create_dir_all(&sessions).with_context(|| format!("the folder of sessions {}", sessions.display()))?;
    let server = Server::bind(Config {
        listen: options.listen,
        state: options.place.state()?,
        sessions,
        tls,
        hosts: options.host,
        program: std::env::current_exe().context("the program's own path")?,
        profiles: profiles()?,
        max_running: options.max_running.unwrap_or_else(most).max(1),
    })?;
    let config = server.config();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", config.listen);
    println!("LAVA's console: {url}");
    println!("log in once:    {}", link(server.store(), LOCAL, &url)?);
    println!("sessions in     {}; up to {} micro-VMs at a time", config.sessions.display(), config.max_running);
    let stop = server.stopper();
    ctrlc::set_handler(stop).context("Ctrl-C")?;
    Ok(server.run()?)
}

/// A link that logs this user in once.
fn link(store: &Store, user: &str, url: &str) -> Result<String> {
    Ok(format!("{url}/login#{}", store.make_link(&account(store, user)?, LINK)?))
}

/// The user of this name; `local` is made when it is needed.
fn account(store: &Store, name: &str) -> Result<lava_console::User> {
    if name == LOCAL && store.user(LOCAL)?.is_none() {
        store.put_user(LOCAL, Role::Admin, None)?;
    }
    store.user(name)?.with_context(|| format!("there is no user {name}: `lava serve user list` lists them"))
}

fn profiles() -> Result<Vec<ProfileFacts>> {
    let profiles = Profiles::load(&places::share()?.join("images/profiles"))?;
    // Variants share a name; the first one speaks for all.
    let mut facts: Vec<ProfileFacts> = Vec::new();
    for profile in profiles.iter() {
        if facts.iter().all(|known| known.name != profile.name) {
            facts.push(ProfileFacts { name: profile.name.clone(), description: profile.description.clone() });
        }
    }
    Ok(facts)
}

/// How many micro-VMs half of this host's memory holds, and not more than it has processors.
fn most() -> usize {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let by_memory = usize::try_from(total.unwrap_or(0) * 1024 / 2 / OF_ONE).unwrap_or(1);
    by_memory.min(std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}
