//! What becomes of writes, for each answer of the policy: seen through the view and through an NBD client.

mod common;

use std::sync::atomic::Ordering;

use common::{DISC, FLUSH, PARTITION, Setup, TRIM, WRITE, WRITE_ZEROES, region, setup};
use lava_event::{Action, DiskRegion, Kind, Range, Sha256, Source};

const EIO: u32 = 5;

/// What both the view and a client must read.
fn check(setup: &Setup, offset: u64, expect: &[u8]) {
    assert!(setup.read(offset, expect.len()) == expect, "the view at {offset}");
    assert!(setup.client().read(offset, expect.len()).unwrap() == expect, "the client at {offset}");
    setup.assert_base_untouched();
}

fn outcomes(setup: &Setup) -> Vec<(DiskRegion, Action, String)> {
    let settled = setup.outlet.settled.lock().unwrap();
    settled.iter().map(|(event, action, outcome)| (region(event), *action, outcome.clone())).collect()
}

#[test]
fn allowed() {
    let setup = setup(&[]);
    setup.client().write(0, &[0xcc; 440]).unwrap();
    check(&setup, 0, &[0xcc; 440]);
    assert_eq!(outcomes(&setup), [(DiskRegion::MbrBootCode, Action::Allow, "the write landed".to_owned())]);
}

#[test]
fn denied() {
    let setup = setup(&[(DiskRegion::MbrBootCode, Action::Deny)]);
    let mut client = setup.client();
    assert_eq!(client.write(0, &[0xcc; 512]), Err(EIO));
    check(&setup, 0, &setup.base[..512]);
    // The disk goes on.
    client.write(PARTITION + 8192, &[1; 512]).unwrap();
    let nothing = "nothing landed: another region of the same request was denied, and the guest got an I/O error";
    assert_eq!(
        outcomes(&setup),
        [
            (DiskRegion::MbrBootCode, Action::Deny, "refused: the guest got an I/O error".to_owned()),
            (DiskRegion::MbrSignature, Action::Allow, nothing.to_owned()),
            (DiskRegion::PartitionTable, Action::Allow, nothing.to_owned()),
        ]
    );
}

#[test]
fn remediated() {
    let setup = setup(&[(DiskRegion::MbrBootCode, Action::Remediate)]);
    setup.client().write(0, &[0xcc; 4096]).unwrap();
    check(&setup, 0, &[&setup.base[..440], &[0xcc; 4096 - 440][..]].concat());
    let (_, action, outcome) = &outcomes(&setup)[0];
    assert_eq!(*action, Action::Remediate);
    assert_eq!(outcome, "the guest was told it succeeded; the original 440 bytes were put back");
}

#[test]
fn remediated_where_it_was_allowed_before() {
    let setup = setup(&[]);
    let mut client = setup.client();
    client.write(PARTITION, &[1; 512]).unwrap();
    setup.outlet.answers.lock().unwrap().insert(DiskRegion::BootSector, Action::Remediate);
    client.write(PARTITION, &[2; 2048]).unwrap();
    let expect = [&[1; 512][..], &setup.base[PARTITION as usize + 512..][..512], &[2; 1024]].concat();
    check(&setup, PARTITION, &expect);
}

#[test]
fn the_event_tells_what_changes() {
    let setup = setup(&[]);
    let mut new = setup.base[..512].to_vec();
    new[3] ^= 1;
    new[100..110].iter_mut().for_each(|byte| *byte ^= 0xff);
    setup.client().write(0, &new).unwrap();
    let asked = setup.outlet.asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "signature and table stay the same");
    assert_eq!((asked[0].event.source, asked[0].event.seq), (Source::Disk, 0));
    let kind = Kind::DiskWrite {
        disk: "vda".to_owned(),
        region: DiskRegion::MbrBootCode,
        ranges: vec![Range { start: 0, end: 440 }],
        bytes: 440,
        count: 1,
        changed: vec![Range { start: 3, end: 4 }, Range { start: 100, end: 110 }],
        before: Some(Sha256::of(&setup.base[..440])),
        after: Some(Sha256::of(&new[..440])),
    };
    assert_eq!(asked[0].event.kind, kind);
    assert_eq!(*asked[0].artifacts[0].bytes, setup.base[..440]);
    assert_eq!(*asked[0].artifacts[1].bytes, new[..440]);
}

#[test]
fn a_part_of_the_boot_code_is_shown_whole() {
    let setup = setup(&[]);
    setup.client().write(10, &[0xcc; 20]).unwrap();
    let asked = setup.outlet.asked.lock().unwrap();
    let mut after = setup.base[..440].to_vec();
    after[10..30].fill(0xcc);
    assert_eq!(*asked[0].artifacts[1].bytes, after[..]);
}

#[test]
fn evidence_and_ranges_are_bounded() {
    let setup = setup(&[]);
    let mut new = setup.base[512..PARTITION as usize].to_vec();
    new[200_000..].iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
    setup.client().write(512, &new).unwrap();
    let asked = setup.outlet.asked.lock().unwrap();
    let Kind::DiskWrite { changed, .. } = &asked[0].event.kind else { unreachable!() };
    assert_eq!(changed.len(), 64);
    assert_eq!(changed[0].start, 512 + 200_000);
    let window = (512 + 200_000) / 512 * 512;
    assert_eq!(*asked[0].artifacts[0].bytes, setup.base[window..][..64 << 10]);
    assert_eq!(*asked[0].artifacts[1].bytes, new[window - 512..][..64 << 10]);
}

#[test]
fn the_same_bytes_again_are_no_news() {
    let setup = setup(&[(DiskRegion::MbrBootCode, Action::Deny)]);
    let mut client = setup.client();
    client.write(0, &setup.base[..512]).unwrap();
    client.write(PARTITION, &setup.base[PARTITION as usize..][..1024]).unwrap();
    client.command(WRITE_ZEROES, 462, 48).unwrap();
    setup.server.stop();
    assert!(setup.outlet.asked.lock().unwrap().is_empty());
    assert!(setup.outlet.emitted.lock().unwrap().is_empty());
}

#[test]
fn zeroes_and_trim_are_writes() {
    for command in [WRITE_ZEROES, TRIM] {
        let setup = setup(&[(DiskRegion::MbrBootCode, Action::Deny), (DiskRegion::BootSector, Action::Remediate)]);
        let mut client = setup.client();
        assert_eq!(client.command(command, 0, 4096), Err(EIO));
        check(&setup, 0, &setup.base[..4096]);
        client.command(command, PARTITION, 64 << 10).unwrap();
        check(&setup, PARTITION, &[&setup.base[PARTITION as usize..][..1024], &[0; 63 << 10][..]].concat());
    }
}

#[test]
fn reads_go_on_while_the_policy_thinks() {
    let setup = setup(&[]);
    let mut client = setup.client();
    // ask() stands still at this lock.
    let thinking = setup.outlet.asked.lock().unwrap();
    client.send(WRITE, 0, 440, &[0xcc; 440]);
    assert!(client.read(PARTITION, 512).unwrap() == setup.base[PARTITION as usize..][..512]);
    client.write(PARTITION + 4096, &[3; 512]).unwrap();
    assert!(setup.read(0, 440) == setup.base[..440], "nothing lands before the answer");
    drop(thinking);
    client.reply().unwrap();
    check(&setup, 0, &[0xcc; 440]);
}

#[test]
fn an_answer_after_goodbye_still_counts() {
    let setup = setup(&[]);
    let mut client = setup.client();
    let thinking = setup.outlet.asked.lock().unwrap();
    client.send(WRITE, 0, 440, &[0xcc; 440]);
    client.send(DISC, 0, 0, &[]);
    drop(thinking);
    client.reply().unwrap();
    check(&setup, 0, &[0xcc; 440]);
}

#[test]
fn data_is_summed_up() {
    let setup = setup(&[(DiskRegion::BootSector, Action::Deny)]);
    let mut client = setup.client();
    let data = PARTITION + (1 << 20);
    client.write(data, &[1; 4096]).unwrap();
    client.write(data + 4096, &[1; 4096]).unwrap();
    client.write(data + 65536, &[1; 512]).unwrap();
    assert_eq!(client.write(PARTITION, &[1; 4096]), Err(EIO)); // Did not land: not counted.
    client.command(FLUSH, 0, 0).unwrap();
    assert!(setup.outlet.emitted.lock().unwrap().is_empty(), "no second has passed");
    setup.outlet.now.store(1_000_000_000, Ordering::Relaxed);
    client.command(FLUSH, 0, 0).unwrap();
    client.write(data, &[2; 512]).unwrap();
    setup.server.stop();

    let emitted = setup.outlet.emitted.lock().unwrap();
    let kinds: Vec<_> = emitted.iter().map(|produced| &produced.event.kind).collect();
    let expect = |ranges: &[(u64, u64)], bytes, count| Kind::DiskWrite {
        disk: "vda".to_owned(),
        region: DiskRegion::Data,
        ranges: ranges.iter().map(|&(start, end)| Range { start, end }).collect(),
        bytes,
        count,
        changed: Vec::new(),
        before: None,
        after: None,
    };
    let first = expect(&[(data, data + 8192), (data + 65536, data + 66048)], 8704, 3);
    assert_eq!(kinds, [&first, &expect(&[(data, data + 512)], 512, 1)]);
}
