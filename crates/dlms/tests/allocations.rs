//! What an exchange allocates in an open, ciphered association: each APDU its buffer, and nothing for what is read.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test may fail by panicking"
)]

#[path = "../fuzz/src/memory.rs"]
#[allow(unreachable_pub, reason = "it is also part of a library")]
mod memory;
#[path = "../benches/support/mod.rs"]
mod support;

use dlms::client::Effect;
use dlms::{Client, Data, Meter, Request, Response, meter};
use memory::measure;
use softcipher::SoftCipher;
use support::ours;

/// How many allocations a call into one of the two makes.
struct Counted {
    client: Client,
    meter: Meter,
    keys: (SoftCipher, SoftCipher),
    worst: [usize; 4],
}

const REQUEST: usize = 0;
const ANSWER: usize = 1;
const SEALED: usize = 2;
const RECEIVED: usize = 3;

impl Counted {
    fn opened() -> Self {
        let mut keys = (ours::keys(support::CLIENT), ours::keys(support::METER));
        let (mut client, mut meter) = (ours::client(), ours::meter());
        client.open(0);
        ours::until_event(&mut client, &mut meter, (&mut keys.0, &mut keys.1));
        assert!(client.is_ready());
        Self {
            client,
            meter,
            keys,
            worst: [0; 4],
        }
    }

    fn count(&mut self, what: usize, call: impl FnOnce(&mut Self)) {
        let ((), used) = measure(|| call(self));
        self.worst[what] = self.worst[what].max(used.count);
    }

    /// One GET, until the client has its answer.
    fn get(&mut self) {
        let command = ours::get();
        self.count(REQUEST, |it| it.client.request(0, command).unwrap());
        while !self.step_client() {
            self.step_meter();
        }
    }

    fn step_client(&mut self) -> bool {
        while let Some(effect) = self.client.poll() {
            match effect {
                Effect::Transmit(frame) => {
                    self.count(RECEIVED, |it| it.meter.handle_bytes(0, &frame));
                }
                Effect::Cipher(job) => {
                    let result = self.keys.0.run(job.op);
                    self.count(SEALED, |it| it.client.handle_cipher(0, job.id, result));
                }
                Effect::Event(_) => return true,
                Effect::Timer(_) => {}
            }
        }
        false
    }

    fn step_meter(&mut self) {
        while let Some(effect) = self.meter.poll() {
            match effect {
                meter::Effect::Transmit(frame) => {
                    self.count(RECEIVED, |it| it.client.handle_bytes(0, &frame));
                }
                meter::Effect::Cipher(job) => {
                    let result = self.keys.1.run(job.op);
                    self.count(SEALED, |it| it.meter.handle_cipher(0, job.id, result));
                }
                meter::Effect::Ask(request) => {
                    let response = Response::GetData {
                        invoke: request.invoke(),
                        data: Data::DoubleLongUnsigned(1),
                    };
                    self.count(ANSWER, |it| it.meter.answer(0, response).unwrap());
                }
                meter::Effect::Event(_) | meter::Effect::Timer(_) => {}
            }
        }
    }
}

#[test]
fn an_exchange_allocates_its_buffers_only() {
    let mut counted = Counted::opened();
    // queues have found their size after the first
    counted.get();
    counted.worst = [0; 4];
    counted.get();
    let [request, answer, sealed, received] = counted.worst;
    assert!(
        request <= 2,
        "{request}: the APDU, and what is known of the exchange"
    );
    assert!(answer <= 1, "{answer}: the APDU");
    assert!(sealed <= 1, "{sealed}: the frame");
    assert!(received <= 1, "{received}: the APDU in the frame");
}

#[test]
fn the_codec_allocates_nothing_for_numbers() {
    let request = ours::get().with(dlms::InvokeId::new(1));
    let response = Response::GetData {
        invoke: request.invoke(),
        data: Data::DoubleLongUnsigned(1),
    };
    let mut out = Vec::with_capacity(64);
    let ((), used) = measure(|| {
        request.encode_into(&mut out);
        assert!(Request::decode(&out).is_ok());
        out.clear();
        response.encode_into(&mut out);
        assert!(Response::decode(&out).is_ok());
    });
    assert_eq!(used.count, 0);
}
