//! The analyst's hand on the guest's keyboard and pointer, and live views of its screen.
//!
//! The keyboard is the machine's own (PS/2), which every kernel of ours drives; the pointer a virtio tablet, because it takes places and
//! not ways. Their queues in QEMU are short, and what does not fit is dropped there without a word: keys are sent one after the other,
//! with time between for the guest to take them.
//!
//! A view is one end of a pair of sockets, handed to QEMU's VNC server over QMP: that server listens nowhere, so there is no socket
//! that another user, or another session's QEMU, could come by.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use lava_control::{Button, TYPED};
use serde_json::{Value, json};

use super::Life;
use super::respond::Failed;

/// For the guest to take a key: QEMU's queue has room for two characters.
const TAKEN: Duration = Duration::from_millis(25);
/// Keys that are pressed together.
const TOGETHER: usize = 5;
/// Longest name of a key.
const NAME: usize = 20;
/// The end of each of the tablet's axes (`INPUT_EVENT_ABS_MAX`, QEMU's include/ui/input.h).
const FAR: u64 = 0x7fff;

impl Life {
    /// Types the text.
    pub(super) fn type_text(&mut self, text: &str) -> Result<String, Failed> {
        self.can_be_touched()?;
        if text.chars().count() > TYPED {
            return Err(no(format!("at most {TYPED} characters are typed at a time")));
        }
        let strokes = text.chars().map(|c| {
            let unknown = || no(format!("{c:?} is on no US keyboard: `lava ctl SESSION key` presses keys by name"));
            stroke(c).ok_or_else(unknown)
        });
        for (key, shifted) in strokes.collect::<Result<Vec<_>, _>>()? {
            let keys = if shifted { vec!["shift", key] } else { vec![key] };
            self.press(&keys)?;
        }
        Ok("typed".to_owned())
    }

    /// Presses keys together.
    pub(super) fn press_keys(&mut self, keys: &str) -> Result<String, Failed> {
        self.can_be_touched()?;
        let keys: Vec<&str> = keys.split('-').map(named).collect();
        let plain = |key: &&str| {
            (1..=NAME).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if keys.len() > TOGETHER || !keys.iter().all(plain) {
            let why =
                "names of keys with `-` between, at most 5: ret, tab, f5, ctrl-c, ctrl-alt-delete (QEMU's QKeyCode)";
            return Err(no(why.to_owned()));
        }
        self.press(&keys)?;
        Ok("pressed".to_owned())
    }

    /// Clicks where the picture has that place.
    pub(super) fn click(&mut self, x: u32, y: u32, button: Button) -> Result<String, Failed> {
        self.can_be_touched()?;
        // How large it is now; and what was clicked on is among the evidence.
        self.picture()?;
        let (width, height) = self.screen.as_ref().and_then(super::Screen::size).unwrap_or_default();
        if x >= width || y >= height {
            return Err(no(format!("the screen has {width} x {height} places, counted from 0 0 at the top left")));
        }
        let to = |axis: &str, at: u32, of: u32| {
            // The middle of the place.
            let value = (2 * u64::from(at) + 1) * FAR / (2 * u64::from(of));
            json!({ "type": "abs", "data": { "axis": axis, "value": value } })
        };
        self.input(&[to("x", x, width), to("y", y, height)])?;
        for down in [true, false] {
            self.input(&[json!({ "type": "btn", "data": { "down": down, "button": button.name() } })])?;
        }
        Ok("clicked".to_owned())
    }

    /// Gives QEMU its end of a view.
    pub(super) fn watch(&mut self, end: &OwnedFd) -> Result<String, Failed> {
        let Some(qmp) = self.qmp.as_mut().filter(|_| self.has_screen) else { return Err(no(BLIND.to_owned())) };
        qmp.add_viewer(end.as_fd())?;
        Ok("a view".to_owned())
    }

    fn can_be_touched(&self) -> Result<(), Failed> {
        match self.paused {
            _ if !self.has_screen => Err(no(BLIND.to_owned())),
            Some(_) => Err(no("the guest is paused and takes nothing: resume it first".to_owned())),
            None => Ok(()),
        }
    }

    /// Presses these in their order, and lets them go the other way round.
    fn press(&mut self, keys: &[&str]) -> Result<(), Failed> {
        let event = |down: bool, key: &&str| {
            let key = json!({ "type": "qcode", "data": key });
            json!({ "type": "key", "data": { "down": down, "key": key } })
        };
        let down: Vec<Value> = keys.iter().map(|key| event(true, key)).collect();
        let up: Vec<Value> = keys.iter().rev().map(|key| event(false, key)).collect();
        self.input(&down)?;
        self.input(&up)
    }

    fn input(&mut self, events: &[Value]) -> Result<(), Failed> {
        let Some(qmp) = &mut self.qmp else { return Err(no("the micro-VM is ending".to_owned())) };
        qmp.execute("input-send-event", Some(json!({ "events": events })))?;
        std::thread::sleep(TAKEN);
        Ok(())
    }
}

const BLIND: &str = "this micro-VM has no screen: its profile wants none";

fn no(why: String) -> Failed {
    Failed::No(why)
}

/// QEMU's name for what people call a key.
fn named(key: &str) -> &str {
    match key {
        "enter" | "return" => "ret",
        "space" => "spc",
        "escape" => "esc",
        "del" => "delete",
        "pageup" => "pgup",
        "pagedown" => "pgdn",
        "control" => "ctrl",
        "super" | "win" => "meta_l",
        other => other,
    }
}

/// The key of a character on a US keyboard, and whether shift is held.
fn stroke(c: char) -> Option<(&'static str, bool)> {
    const LETTERS: [&str; 26] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v",
        "w", "x", "y", "z",
    ];
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    /// (without shift, with it, key)
    const OTHERS: [(char, char, &str); 11] = [
        ('-', '_', "minus"),
        ('=', '+', "equal"),
        ('[', '{', "bracket_left"),
        (']', '}', "bracket_right"),
        ('\\', '|', "backslash"),
        (';', ':', "semicolon"),
        ('\'', '"', "apostrophe"),
        ('`', '~', "grave_accent"),
        (',', '<', "comma"),
        ('.', '>', "dot"),
        ('/', '?', "slash"),
    ];
    let at = |c: char, first: char| usize::try_from(u32::from(c) - u32::from(first)).ok();
    match c {
        ' ' => Some(("spc", false)),
        '\n' => Some(("ret", false)),
        '\t' => Some(("tab", false)),
        'a'..='z' => LETTERS.get(at(c, 'a')?).map(|key| (*key, false)),
        'A'..='Z' => LETTERS.get(at(c, 'A')?).map(|key| (*key, true)),
        '0'..='9' => DIGITS.get(at(c, '0')?).map(|key| (*key, false)),
        _ => {
            let digit = ")!@#$%^&*(".chars().position(|shifted| shifted == c);
            let digit = digit.and_then(|at| DIGITS.get(at)).map(|key| (*key, true));
            let other = || {
                let found = OTHERS.iter().find(|(plain, shifted, _)| [*plain, *shifted].contains(&c));
                found.map(|(plain, _, key)| (*key, *plain != c))
            };
            digit.or_else(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_character_has_a_key_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for c in (' '..='~').chain(['\n', '\t']) {
            let stroke = stroke(c).unwrap_or_else(|| panic!("{c:?}"));
            assert!(seen.insert(stroke), "{c:?} is {stroke:?} like another");
        }
        for (c, expect) in
            [('a', ("a", false)), ('Z', ("z", true)), ('0', ("0", false)), (')', ("0", true)), ('(', ("9", true))]
        {
            assert_eq!(stroke(c), Some(expect));
        }
        assert_eq!((stroke('"'), stroke('/')), (Some(("apostrophe", true)), Some(("slash", false))));
        assert!(['ä', '\u{1b}', '\0', '€'].into_iter().all(|c| stroke(c).is_none()));
    }
}
