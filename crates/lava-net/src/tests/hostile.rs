//! Guests that mean harm: what they can take is bounded, and honest connections go on.

use std::time::Duration;

use lava_event::Kind;

use super::guest::simulated;
use super::{WORLD, emit, route, syn};
use crate::stack::MOST;

#[test]
fn a_flood_of_syns_leaves_room_for_who_connects() {
    let mut guest = simulated();
    let socket = guest.connect(WORLD, 80, 50_000);
    guest.settle();
    for port in 1..=20_000_u16 {
        guest.raw(&syn(WORLD, port, 1));
        assert!(guest.peer.connections() <= MOST);
    }
    guest.wait(Duration::from_secs(15));
    assert_eq!(guest.peer.connections(), 1, "half-open ones do not last");
    assert!(guest.socket(socket).may_send());
    assert!(guest.streams().is_empty(), "no connection was made by any of them");
}

#[test]
fn connections_that_are_never_closed_are_bounded_and_end() {
    let mut guest = simulated();
    for number in 0..400_u16 {
        guest.connect(WORLD, 4000 + number, 30_000 + number);
        guest.settle();
    }
    assert_eq!(guest.peer.connections(), MOST);
    assert_eq!(guest.streams().iter().filter(|stream| stream.3 == "evicted").count(), 400 - MOST);
    guest.wait(Duration::from_secs(90));
    assert_eq!(guest.peer.connections(), 0, "silent ones are closed, and reset when the guest does not close them");
}

#[test]
fn datagrams_to_everywhere_are_bounded() {
    let mut guest = simulated();
    for port in 1..=5000 {
        guest.raw(&emit::udp(route(WORLD), 40_000, if port == 53 { 1 } else { port }, b"x"));
    }
    let told = guest.told.iter().filter(|kind| matches!(kind, Kind::NetStream { .. })).count();
    assert!(told >= 5000 - 1 - crate::datagrams::MOST, "{told}");
}
