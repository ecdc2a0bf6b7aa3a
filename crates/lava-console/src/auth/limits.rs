//! How often somebody may try to log in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock;

/// Tries of one address, or for one name, within [`WINDOW`].
const TRIES: usize = 10;
/// The time they are counted in.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses and names remembered; if there are more, nobody may try until some are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// Tries, by address and by user name.
#[derive(Default)]
pub struct Tries(Mutex<HashMap<String, Vec<Instant>>>);

impl Tries {
    /// Counts a try at `now`; false if there were too many.
    pub fn may_try(&self, from: IpAddr, name: Option<&str>, now: Instant) -> bool {
        let mut tries = lock(&self.0);
        tries.retain(|_, times| {
            times.retain(|&time| now.duration_since(time) < WINDOW);
            !times.is_empty()
        });
        let keys = [Some(format!("from {from}")), name.map(|name| format!("name {name}"))];
        let keys: Vec<String> = keys.into_iter().flatten().collect();
        let full = |key: &String| tries.get(key).is_some_and(|times| times.len() >= TRIES);
        if tries.len() + keys.len() > MAX_REMEMBERED || keys.iter().any(full) {
            return false;
        }
        for key in keys {
            tries.entry(key).or_default().push(now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_counted_by_address_and_by_name() {
        let (tries, now) = (Tries::default(), Instant::now());
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert!((0..10).all(|n| tries.may_try(address(n), Some("eve"), now)));
        assert!(!tries.may_try(address(99), Some("eve"), now), "another address, the same name");
        assert!((0..9).all(|_| tries.may_try(address(1), None, now)));
        assert!(!tries.may_try(address(1), Some("bob"), now), "another name, the same address");
        assert!(tries.may_try(address(1), Some("eve"), now + WINDOW));
    }
}
