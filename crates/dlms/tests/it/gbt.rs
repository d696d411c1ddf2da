//! General block transfer over a link that loses, doubles and reorders blocks.

use std::collections::VecDeque;

use dlms::gbt::{RESENDS_MAX, Received, Receiver, Resend, Sender, USELESS_MAX};
use dlms::{Error, GeneralBlock};
use proptest::collection::vec;
use proptest::prelude::*;

/// What the link does with one block.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    Overtaken,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        1 => Just(Fate::Overtaken),
    ]
}

fn put(link: &mut VecDeque<GeneralBlock>, block: GeneralBlock, fate: Fate) {
    match fate {
        Fate::Arrives => link.push_back(block),
        Fate::Lost => {}
        Fate::Doubled => link.extend([block.clone(), block]),
        Fate::Overtaken => {
            let before = link.len().saturating_sub(1);
            link.insert(before, block);
        }
    }
}

/// Until the APDU is there or one side gives up; `steps` bounds it.
fn transfer(apdu: &[u8], size: usize, window: u8, fates: &[Fate]) -> Result<Vec<u8>, Error> {
    let mut sender = Sender::new(apdu.to_vec(), size, window, 1, 0).unwrap();
    let mut receiver = Receiver::new(apdu.len(), window, 0);
    let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
    let mut fates = fates
        .iter()
        .copied()
        .chain(std::iter::repeat(Fate::Arrives));
    for _ in 0..100_000 {
        let mut moved = false;
        while let Some(block) = sender.next_block() {
            moved = true;
            let block = GeneralBlock::decode(&block.encode()).unwrap();
            assert!(block.data.len() <= size);
            put(&mut there, block, fates.next().unwrap());
        }
        while let Some(block) = there.pop_front() {
            moved = true;
            match receiver.take(&block)? {
                Received::More => {}
                Received::Acknowledge(block) => put(&mut back, block, fates.next().unwrap()),
                Received::Complete(apdu) => return Ok(apdu),
            }
        }
        while let Some(block) = back.pop_front() {
            moved = true;
            assert!(!sender.acknowledged(block.ack, block.window)?);
        }
        if !moved {
            // silence: the receiver asks first
            put(&mut back, receiver.timed_out(), fates.next().unwrap());
        }
    }
    panic!("it did not end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn an_apdu_arrives_as_it_was_or_not_at_all(
        apdu in vec(any::<u8>(), 1..400),
        size in 1_usize..60,
        window in 0_u8..9,
        fates in vec(fate(), 0..60),
    ) {
        if let Ok(arrived) = transfer(&apdu, size, window, &fates) {
            prop_assert_eq!(arrived, apdu);
        }
    }

    #[test]
    fn few_losses_are_recovered(
        apdu in vec(any::<u8>(), 1..400),
        size in 1_usize..60,
        window in 0_u8..9,
        fates in vec(fate(), 0..6),
    ) {
        prop_assert_eq!(transfer(&apdu, size, window, &fates), Ok(apdu));
    }

    #[test]
    fn no_blocks_make_it_grow_or_panic(
        blocks in vec((any::<bool>(), any::<bool>(), 0_u16..6, any::<u16>(), vec(any::<u8>(), 0..9)), 0..80)
    ) {
        let mut sender = Sender::new(vec![1; 100], 7, 3, 1, 0).unwrap();
        let mut receiver = Receiver::new(50, 3, 0);
        for (last, streaming, block, ack, data) in blocks {
            let block = GeneralBlock { last, streaming, window: 3, block, ack, data };
            let _ = sender.acknowledged(ack, 3);
            let _ = sender.next_block();
            if let Ok(Received::Complete(apdu)) = receiver.take(&block) {
                prop_assert!(apdu.len() <= 50);
            }
        }
    }
}

const fn block(number: u16, last: bool, streaming: bool, data: Vec<u8>) -> GeneralBlock {
    GeneralBlock {
        last,
        streaming,
        window: 1,
        block: number,
        ack: 0,
        data,
    }
}

#[test]
fn a_window_streams_and_its_last_block_waits() {
    let mut sender = Sender::new(vec![5; 25], 10, 2, 4, 9).unwrap();
    let first = sender.next_block().unwrap();
    assert_eq!(
        (
            first.block,
            first.streaming,
            first.last,
            first.window,
            first.ack
        ),
        (1, true, false, 4, 9)
    );
    let second = sender.next_block().unwrap();
    assert_eq!(
        (second.block, second.streaming, second.last),
        (2, false, false)
    );
    assert_eq!(sender.next_block(), None);
    // the second was lost
    assert_eq!(sender.acknowledged(1, 2), Ok(false));
    assert_eq!(sender.next_block().unwrap().block, 2);
    let third = sender.next_block().unwrap();
    assert_eq!((third.block, third.last, third.data.len()), (3, true, 5));
    assert!(sender.is_sent());
    assert_eq!(sender.acknowledged(3, 2), Ok(true));
}

#[test]
fn either_side_gives_up_in_the_end() {
    let mut sender = Sender::new(vec![5; 25], 10, 1, 1, 0).unwrap();
    for _ in 0..RESENDS_MAX {
        sender.next_block().unwrap();
        sender.timed_out().unwrap();
    }
    sender.next_block().unwrap();
    assert!(matches!(
        sender.acknowledged(0, 1),
        Err(Error::State { .. })
    ));
    assert!(matches!(
        sender.acknowledged(2, 1),
        Err(Error::Bounds { offset: 4, .. })
    ));

    let mut receiver = Receiver::new(100, 1, 0);
    receiver.take(&block(1, false, false, vec![1])).unwrap();
    for _ in 0..USELESS_MAX {
        receiver.take(&block(1, false, false, vec![1])).unwrap();
    }
    assert!(receiver.take(&block(1, false, false, vec![1])).is_err());
}

#[test]
fn limits_of_the_receiver() {
    let mut receiver = Receiver::new(3, 2, 0);
    for (bad, at) in [
        (block(3, false, false, vec![1]), 2),
        (block(0, false, false, vec![1]), 2),
        (block(1, false, true, vec![]), 6),
        (block(1, true, false, vec![]), 6),
    ] {
        assert!(
            matches!(receiver.take(&bad), Err(Error::Bounds { offset, .. }) if offset == at),
            "{bad:?}"
        );
    }
    assert!(matches!(
        receiver.take(&block(1, false, false, vec![1; 4])),
        Err(Error::TooLong { limit: 3, found: 4 })
    ));
    assert!(Sender::new(vec![0; 65_536], 1, 1, 1, 0).is_err());
    assert!(Sender::new(vec![0], 0, 1, 1, 0).is_err());
}

#[test]
fn there_is_no_block_after_the_last_number() {
    let mut receiver = Receiver::new(usize::MAX, 1, 0);
    for number in 1..=u16::MAX {
        receiver
            .take(&block(number, false, false, vec![1]))
            .unwrap();
    }
    for last in [false, true] {
        assert!(matches!(
            receiver.take(&block(u16::MAX, last, false, vec![1])),
            Err(Error::Bounds { offset: 2, .. })
        ));
    }
    assert_eq!(receiver.received(), u16::MAX);
}

/// The blocks that leave now.
fn leaving(sender: &mut Sender) -> Vec<u16> {
    core::iter::from_fn(|| sender.next_block())
        .map(|block| block.block)
        .collect()
}

#[test]
fn what_is_sent_again_after_the_last_block() {
    let sender = |again| {
        let sender = Sender::new(vec![5; 50], 10, 2, 1, 0).unwrap();
        let mut sender = sender.resending(again);
        assert_eq!(leaving(&mut sender), [1, 2]);
        // not all has left: whatever it allows, what may be lost goes again
        sender.timed_out().unwrap();
        assert_eq!(leaving(&mut sender), [1, 2]);
        assert_eq!(sender.acknowledged(2, 3), Ok(false));
        assert_eq!(leaving(&mut sender), [3, 4, 5]);
        sender
    };
    let cases: [(Resend, [&[u16]; 3]); 3] = [
        (Resend::Unacknowledged, [&[3, 4, 5], &[3, 4, 5], &[5]]),
        (Resend::Named, [&[], &[], &[5]]),
        (Resend::Nothing, [&[], &[], &[]]),
    ];
    for (again, [silence, nothing_new, named]) in cases {
        let mut sender = sender(again);
        sender.timed_out().unwrap();
        assert_eq!(leaving(&mut sender), silence, "{again:?}");
        for ack in [0, 2] {
            assert_eq!(sender.acknowledged(ack, 3), Ok(false));
        }
        assert_eq!(leaving(&mut sender), nothing_new, "{again:?}");
        assert_eq!(sender.acknowledged(4, 3), Ok(false));
        assert_eq!(leaving(&mut sender), named, "{again:?}");
        assert_eq!(sender.acknowledged(5, 3), Ok(true));
        assert!(sender.has_ended() && sender.arrived() == 5);
    }
}
