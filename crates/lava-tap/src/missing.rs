//! What the guest's kernel lacks, so that something is not watched: told in `vm.introspection`, in sentences.

use std::fmt::Display;

/// The sentences.
#[derive(Default)]
pub struct Missing(Vec<String>);

impl Missing {
    /// Something is not watched.
    pub fn push(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    /// The value; if there is none, `what` is not watched.
    pub fn unless<T, E: Display>(&mut self, what: &str, found: Result<T, E>) -> Option<T> {
        found.map_err(|why| self.push(format!("{what}: {why}"))).ok()
    }

    pub fn into_sentences(self) -> Vec<String> {
        self.0
    }
}
