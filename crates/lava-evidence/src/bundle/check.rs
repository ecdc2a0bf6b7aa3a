//! Is a bundle, byte for byte, what was signed?

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use lava_event::{SessionId, Sha256};

use super::archive::Archive;
use super::head::{self, Head, Lost};
use super::key::PublicKey;
use super::list::List;
use super::walk::Walk;
use super::{LIST, SIGNATURE};
use crate::chain::Check;
use crate::place::Place;
use crate::{ChainReport, Error, Problem, Session};

/// What was found out about a bundle.
#[derive(Clone, PartialEq, Debug)]
pub struct BundleReport {
    /// The session, as the list says.
    pub session: SessionId,
    /// The key that the list is signed with; `None` if the signature does not fit. Whose key that is, the bundle can't say.
    pub signed: Option<PublicKey>,
    /// The Merkle root over the members that the list names.
    pub root: Sha256,
    /// How many these are.
    pub members: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The session's log held against its chain, if there is a manifest.
    pub chain: Option<ChainReport>,
    /// What is wrong, with the container first, then with the session in it.
    pub problems: Vec<Problem>,
}

impl BundleReport {
    /// True if every byte is as it was signed. A session that had not ended in order is that too.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.signed.is_some() && !self.problems.iter().any(|problem| problem.tampering)
    }
}

/// Checks a bundle, and opens the session in it as far as it can be read. With a key, only that one's signature counts; without, the
/// one that the bundle names.
///
/// # Errors
/// If the file can't be read, or nothing of a bundle is recognised in it.
pub fn check(path: &Path, key: Option<&PublicKey>) -> Result<(BundleReport, Option<Session>), Error> {
    let io = |error| Error::io("read", path, error);
    let file = Arc::new(File::open(path).map_err(io)?);
    let facts = file.metadata().map_err(io)?;
    let broken = |problem: String| Error::Malformed { path: path.to_path_buf(), problem };
    if !facts.is_file() {
        return Err(broken("is no ordinary file".into()));
    }
    let mut check = Check::default();
    let head = head::read(&file, &mut check).map_err(|lost| match lost {
        Lost::Io(error) => io(error),
        Lost::Broken(problem) => broken(problem),
    })?;
    let list = List::parse(&head.list).map_err(|(line, problem)| {
        broken(format!("{LIST}, line {line}: {problem}; so it was changed, and nothing can be held against it"))
    })?;
    let signed = signed(&list, &head, key, &mut check);
    if list.computed_root() != list.root {
        check.add(LIST, None, "its Merkle root is not that of its lines", true);
    }
    let kept = Walk::over(&file, facts.len(), &list, &head, &mut check).map_err(io)?;
    let archive = Archive::new(path, Arc::clone(&file), kept);
    let session = match Session::at(Place::Bundle(Arc::new(archive))) {
        Ok(session) => Some(session),
        Err(error) => {
            check.add("manifest.json", None, &error.to_string(), true);
            None
        }
    };
    if let Some(session) = session.as_ref().filter(|session| session.manifest().session != list.session) {
        let other = crate::text::line(&session.manifest().session.0, 80);
        check.add("manifest.json", None, &format!("is of session {other}, the list of {}", list.session), true);
    }
    let chain = session.as_ref().map(Session::verify_chain).transpose();
    let chain = chain.unwrap_or_else(|error| {
        check.add("events.jsonl", None, &error.to_string(), true);
        None
    });
    let mut problems = check.problems;
    problems.extend(chain.iter().flat_map(|chain| chain.problems.iter().cloned()));
    let members = list.members.len() as u64;
    let report =
        BundleReport { session: list.session, signed, root: list.root, members, bytes: facts.len(), chain, problems };
    Ok((report, session))
}

/// The key that signed the list.
fn signed(list: &List, head: &Head, key: Option<&PublicKey>, check: &mut Check) -> Option<PublicKey> {
    let named = PublicKey::parse(&list.key);
    if let Some(wanted) = key
        && named.as_ref() != Some(wanted)
    {
        let other = named.map_or("none that can be read".to_owned(), |key| key.id());
        check.add(SIGNATURE, None, &format!("not signed with key {}, but with {other}", wanted.id()), true);
        return None;
    }
    let expected = head::trusted_comment(list, None);
    let comment = named.as_ref().and_then(|key| key.verify(head.list.as_bytes(), &head.signature));
    if comment.is_none_or(|comment| !comment.starts_with(&expected)) {
        let what = format!("does not fit: {LIST} or it was changed, and what follows is held against an unsigned list");
        check.add(SIGNATURE, None, &what, true);
        return None;
    }
    named
}
