//! Associations in memory with software ciphers: this crate beside `dlms-cosem-rs`, in one run. Both roles together.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may fail by panicking"
)]

mod support;

use divan::{AllocProfiler, Bencher, black_box};
use support::{ours, theirs};

#[global_allocator]
static ALLOCATOR: AllocProfiler<std::alloc::System> = AllocProfiler::system();

fn main() {
    divan::Divan::from_args()
        .sample_size(50)
        .sample_count(200)
        .main();
}

/// An association opened with HLS5, all four passes ciphered: AARQ, AARE, ACTION and its answer.
#[divan::bench_group]
mod hls5_passes_1_to_4 {
    use super::*;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let mut keys = (ours::keys(support::CLIENT), ours::keys(support::METER));
        bencher.bench_local(|| {
            let (mut client, mut meter) = (ours::client(), ours::meter());
            client.open(0);
            let event = ours::until_event(&mut client, &mut meter, (&mut keys.0, &mut keys.1));
            assert!(client.is_ready());
            event
        });
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let mut meter = theirs::meter();
        let (mut counter, mut out, mut answer) = (0, [0; 1024], vec![]);
        bencher.bench_local(|| {
            let mut client = theirs::client(counter);
            theirs::open(&mut client, &mut out, by(&mut meter), &mut answer);
            counter = client.invocation_counter();
        });
    }
}

/// A GET in an open association: request and answer ciphered, sent, deciphered, by both roles.
#[divan::bench_group]
mod get_ciphered {
    use super::*;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let mut keys = (ours::keys(support::CLIENT), ours::keys(support::METER));
        let (mut client, mut meter) = (ours::client(), ours::meter());
        client.open(0);
        ours::until_event(&mut client, &mut meter, (&mut keys.0, &mut keys.1));
        bencher.bench_local(|| {
            client.request(0, black_box(ours::get())).unwrap();
            ours::until_event(&mut client, &mut meter, (&mut keys.0, &mut keys.1))
        });
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let (mut meter, mut client) = (theirs::meter(), theirs::client(0));
        let (mut out, mut answer) = ([0; 1024], vec![]);
        theirs::open(&mut client, &mut out, by(&mut meter), &mut answer);
        bencher.bench_local(|| theirs::get(&mut client, &mut out, by(&mut meter), &mut answer));
    }
}

/// 64 octets ciphered and deciphered, authenticated and encrypted, suite 0, with counters and replay window.
#[divan::bench_group]
mod glo_64 {
    use super::*;
    use dlms::{CipherOp, CipherOutput, Protection, SecurityControl, SystemTitle};
    use dlms_cosem_rs::security as peer;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let (mut sender, mut receiver) = (ours::keys(support::CLIENT), ours::keys(support::METER));
        let (protection, control, signed) = (Protection::Glo, SecurityControl::AUTH_ENC, false);
        bencher
            .with_inputs(|| vec![0xC0; 64])
            .bench_local_values(|apdu| {
                let sealed = sender.run(CipherOp::Protect {
                    apdu,
                    protection,
                    control,
                    signed,
                });
                let Ok(CipherOutput::Apdu(apdu, _)) = sealed else {
                    panic!("{sealed:?}");
                };
                let peer_title = SystemTitle::new(support::CLIENT);
                let opened = receiver.run(CipherOp::Unprotect {
                    apdu,
                    peer_title,
                    protection,
                    control,
                    signed,
                });
                assert!(opened.is_ok());
                opened
            });
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let policy = peer::SecurityPolicy::authenticated_encrypted(peer::SecuritySuite::Suite0);
        let ring = peer::KeyRing::new(support::EK, support::AK);
        let protector = peer::Protector::new(peer::RustCryptoProvider::new(ring), policy);
        let title = peer::SystemTitle::new(support::CLIENT);
        let (mut counter, mut out) = (0, [0; 128]);
        let mut window = peer::ReplayWindow::new(0);
        bencher.bench_local(|| {
            counter += 1;
            let ak = black_box(&support::AK);
            let sealed = protector.protect(&title, counter, ak, black_box(&[0xC0; 64]), &mut out);
            let length = sealed.unwrap().len();
            window.check(counter).unwrap();
            let control = policy.control();
            let opened = protector.unprotect(control, &title, counter, ak, &mut out[..length]);
            let first = opened.unwrap()[0];
            window.accept(counter).unwrap();
            first
        });
    }
}

/// The peer's meter in the same memory.
fn by(meter: &mut theirs::Meter) -> impl FnMut(&[u8], &mut Vec<u8>) {
    |request, answer| {
        answer.resize(1024, 0);
        let length = meter.handle(request, answer).unwrap();
        answer.truncate(length);
    }
}
