//! What is at a path after undoing, and what was there before the session.

use lava_event::FileType;

use super::plan::{Action, Step, action};
use crate::State;
use crate::tree::{Budget, Tree};

/// The two held against each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The path.
    pub path: lava_event::GuestText,
    /// What was done.
    pub action: Action,
    /// What was there before; none if nothing was.
    pub before: Option<State>,
    /// What is there now, or why that is not known.
    pub now: Result<Option<State>, String>,
    /// Nothing of what both say differs: type, rights, owner, size, time of change, content by its hash, target, extended
    /// attributes, flags, a device's numbers. Of a folder without
    /// size and time, which what is in it changes.
    pub same: bool,
}

pub(super) fn of(step: &Step, before: &Tree, now: &Tree) -> Proof {
    let path = step.entry.path.clone();
    let was = state(before, path.bytes());
    let is = state(now, path.bytes());
    let same = matches!((&was, &is), (Ok(was), Ok(is)) if is_same(was.as_ref(), is.as_ref()))
        && flags(before, path.bytes()) == flags(now, path.bytes());
    // What the session found can be read, or nothing would have been put back.
    let before = was.unwrap_or_else(|_| step.entry.before.clone());
    Proof { path, action: action(step.entry.change), before, now: is, same }
}

/// What is at a path, hashed whatever its size.
fn state(tree: &Tree, path: &[u8]) -> Result<Option<State>, String> {
    let Some(metadata) = tree.find(path)? else { return Ok(None) };
    let mut state = tree.state(path, &metadata)?;
    state.xattrs = tree.xattrs(path)?;
    if state.what == FileType::Regular {
        let mut budget = Budget { hashed: (u64::MAX, u64::MAX), kept: (0, 0) };
        state.sha256 = tree.content(path, &metadata, &mut budget, false)?.0;
    }
    Ok(Some(state))
}

/// What a user set with `chattr`, and a device's numbers; none of what is not there.
fn flags(tree: &Tree, path: &[u8]) -> Option<(u32, Option<(u32, u32)>)> {
    let (inode, _) = tree.inode(path).ok()?;
    let is_device = matches!(inode.mode() & 0xf000, 0x2000 | 0x6000);
    Some((inode.user_flags(), is_device.then(|| inode.device())))
}

fn is_same(was: Option<&State>, is: Option<&State>) -> bool {
    let (Some(was), Some(is)) = (was, is) else { return was.is_none() && is.is_none() };
    let without = |state: &State| match state.what {
        FileType::Directory => State { size: 0, modified: String::new(), ..state.clone() },
        _ => state.clone(),
    };
    without(was) == without(is)
}
