//! IRC (RFC 2812), as far as a bot goes before it waits for orders: it is welcomed, its pings are answered, its channels
//! are joined, and nobody says anything.

use super::{Lines, Talk};
use crate::world::Context;

/// Commands that a client begins with.
const FIRST: &[&[u8]] = &[b"NICK ", b"USER ", b"PASS ", b"CAP "];
const SERVER: &str = "irc.local";

/// True if first bytes are IRC.
pub fn sniff(first: &[u8]) -> bool {
    FIRST.iter().any(|command| first.starts_with(command))
}

/// True if they may become it.
pub fn may_be(first: &[u8]) -> bool {
    FIRST.iter().any(|command| command.starts_with(first))
}

/// One connection's.
#[derive(Default)]
pub struct Irc {
    lines: Lines,
    nick: Option<String>,
    user: bool,
    welcomed: bool,
}

impl Irc {
    pub fn receive(&mut self, bytes: &[u8], talk: &mut Talk, context: &mut Context<'_, '_>) {
        for line in self.lines.add(bytes) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let reply = match command.to_ascii_uppercase().as_str() {
                "NICK" => {
                    self.nick = Some(rest.trim_start_matches(':').chars().take(64).collect());
                    String::new()
                }
                "USER" => {
                    self.user = true;
                    String::new()
                }
                "PING" => format!(":{SERVER} PONG {SERVER} {rest}\r\n"),
                "JOIN" => self.joined(rest),
                "QUIT" => {
                    talk.closes = true;
                    String::new()
                }
                _ => String::new(),
            };
            talk.say(reply.as_bytes(), &mut context.world.budget);
            let welcome = self.welcome();
            talk.say(welcome.as_bytes(), &mut context.world.budget);
        }
    }

    fn joined(&self, rest: &str) -> String {
        let (nick, channel) = (self.nick.as_deref().unwrap_or("*"), rest.split(' ').next().unwrap_or_default());
        format!(
            ":{nick}!{nick}@10.77.0.15 JOIN {channel}\r\n:{SERVER} 353 {nick} = {channel} :{nick}\r\n\
             :{SERVER} 366 {nick} {channel} :End of NAMES list\r\n"
        )
    }

    fn welcome(&mut self) -> String {
        let Some(nick) = self.nick.as_ref().filter(|_| self.user && !self.welcomed) else { return String::new() };
        let text = format!(":{SERVER} 001 {nick} :Welcome {nick}\r\n:{SERVER} 422 {nick} :MOTD File is missing\r\n");
        self.welcomed = true;
        text
    }
}
