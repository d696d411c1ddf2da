use dlms::{Data, Obis};

use super::*;

const CLOCK: Obis = Obis::new([0, 0, 1, 0, 0, 255]);
const SCRIPTS: Obis = Obis::new([0, 0, 10, 1, 0, 255]);

fn head(service: Service, class_id: u16, name: Obis, index: i8) -> Asked {
    Asked {
        service,
        class_id,
        name,
        index,
        parameter: Vec::new(),
        selection: Vec::new(),
    }
}

fn long(octet: u8) -> Vec<u8> {
    Data::OctetString(vec![octet; 100]).encode()
}

/// Two texts that may be written, a script to run, and one without a parameter.
fn allowed() -> Vec<Allowed> {
    let with = |head: Asked, parameter| Allowed {
        asked: Asked { parameter, ..head },
        max_uses: 1,
        named: None,
    };
    let write = || head(Service::Set, 1, CLOCK, 2);
    vec![
        with(write(), long(1)),
        with(write(), long(2)),
        with(
            head(Service::Action, 9, SCRIPTS, 1),
            Data::LongUnsigned(3).encode(),
        ),
        with(head(Service::Action, 1, CLOCK, 1), Vec::new()),
    ]
}

fn write() -> Transfer {
    Transfer::new(5, false, &[head(Service::Set, 1, CLOCK, 2)], &allowed()).unwrap()
}

fn block(number: u32, octets: &[u8], last: bool) -> Block {
    Block {
        last,
        number,
        octets: octets.to_vec(),
    }
}

fn begun(progress: Result<Progress, Error>) -> Transfer {
    match progress.unwrap() {
        Progress::Begun(transfer) => transfer,
        Progress::Whole(_) => panic!("it is whole"),
    }
}

#[test]
fn the_whole_value_is_of_one_command() {
    for (octet, index) in [(1, 0), (2, 1)] {
        let value = long(octet);
        for size in [1, 7, 50, 101] {
            let mut transfer = write();
            let chunks: Vec<_> = value.chunks(size).collect();
            let (end, begin) = chunks.split_last().unwrap();
            let mut number = 0;
            for chunk in begin {
                number += 1;
                transfer = begun(transfer.with(&block(number, chunk, false)));
            }
            let last = transfer.with(&block(number + 1, end, true)).unwrap();
            assert_eq!(last, Progress::Whole(vec![index]), "blocks of {size}");
        }
    }
}

#[test]
fn no_block_of_anything_else_is_ciphered() {
    let value = long(1);
    let first = |octets: &[u8], last| write().with(&block(1, octets, last)).is_err();
    assert!(first(&[9, 100, 3], false), "another value");
    assert!(first(&value[..50], true), "not all of it");
    assert!(first(&value, false), "all of it, and more to come");
    assert!(
        first(&[&value[..], &[0]].concat(), true),
        "all of it, and more"
    );
    assert!(first(&[], false), "nothing");
    assert!(
        write().with(&block(2, &value[..50], false)).is_err(),
        "the second first"
    );
    let transfer = begun(write().with(&block(1, &value[..50], false)));
    for (number, octets, last, what) in [
        (1, &value[50..], true, "the first again"),
        (3, &value[50..], true, "one left out"),
        (2, &value[51..], true, "octets left out"),
        (2, &long(2)[50..], true, "the other's end"),
        (2, &[][..], true, "nothing"),
    ] {
        assert!(
            transfer.with(&block(number, octets, last)).is_err(),
            "{what}"
        );
    }
    // What was refused changed nothing.
    let last = transfer.with(&block(2, &value[50..], true)).unwrap();
    assert_eq!(last, Progress::Whole(vec![0]));
}

#[test]
fn what_the_blocks_are_of_is_in_the_first() {
    let refused = |head: Asked| Transfer::new(1, false, &[head], &allowed()).unwrap_err();
    for other in [
        head(Service::Set, 1, CLOCK, 3),
        head(Service::Set, 8, CLOCK, 2),
        head(Service::Action, 1, CLOCK, 2),
        head(Service::Set, 1, SCRIPTS, 2),
        Asked {
            selection: vec![2],
            ..head(Service::Set, 1, CLOCK, 2)
        },
        // It has no parameter, so no blocks either.
        head(Service::Action, 1, CLOCK, 1),
    ] {
        assert!(matches!(refused(other), Error::ApduNotPermitted { .. }));
    }
    let relay = Obis::new([0, 0, 96, 3, 10, 255]);
    let rotten = head(Service::Action, 70, relay, 2);
    let allowed = [Allowed {
        asked: Asked {
            parameter: vec![15, 0],
            ..rotten.clone()
        },
        max_uses: 1,
        named: None,
    }];
    let refused = Transfer::new(1, false, &[rotten], &allowed).unwrap_err();
    assert!(matches!(refused, Error::ApduForbidden { .. }));
    assert!(Transfer::new(1, false, &[], &allowed).is_err());
}

#[test]
fn a_list_in_blocks_is_compared_item_by_item() {
    let heads = [
        head(Service::Action, 9, SCRIPTS, 1),
        head(Service::Action, 1, CLOCK, 1),
        head(Service::Action, 9, SCRIPTS, 1),
    ];
    let list = Transfer::new(5, true, &heads, &allowed()).unwrap();
    assert_eq!(list.count(), Some(3));
    let script = Data::LongUnsigned(3).encode();
    let octets = [&[3][..], &script, &[0], &script].concat();
    let mut transfer = list.clone();
    for (at, octet) in octets.iter().enumerate() {
        let number = u32::try_from(at).unwrap() + 1;
        let last = at + 1 == octets.len();
        match transfer.with(&block(number, &[*octet], last)).unwrap() {
            Progress::Begun(next) => transfer = next,
            Progress::Whole(indices) => assert_eq!((last, indices), (true, vec![2, 3, 2])),
        }
    }
    for wrong in [
        [&[2][..], &script, &[0]].concat(),
        [&[3][..], &script, &script, &script].concat(),
        [&[3][..], &script, &[0], &Data::LongUnsigned(4).encode()].concat(),
        octets[1..].to_vec(),
        [&octets[..], &[0]].concat(),
    ] {
        assert!(list.with(&block(1, &wrong, true)).is_err(), "{wrong:02X?}");
    }
    assert_eq!(
        list.with(&block(1, &octets, true)).unwrap(),
        Progress::Whole(vec![2, 3, 2])
    );
}

#[test]
fn no_value_is_printed() {
    let transfer = begun(write().with(&block(1, &long(1)[..50], false)));
    let printed = format!("{transfer:?} {:?}", block(2, b"sesame", true));
    assert!(
        !printed.contains("115") && !printed.contains("1, 1"),
        "{printed}"
    );
}
