//! This crate, with `softcipher`.

use dlms::client::{Effect, Event};
use dlms::{
    ActionResult, Attribute, Client, ClientAccess, ClientConfig, Command, Data, InvokeId,
    Mechanism, Meter, MeterConfig, Method, Obis, Protection, Request, Response, Suite, SystemTitle,
    meter,
};
use softcipher::{Keys, Setup, SoftCipher};

use super::{AK, CLIENT, CLOCK, EK, METER, SCRIPT, VALUE};

pub(crate) fn keys(own: [u8; 8]) -> SoftCipher {
    let keys = Keys {
        encryption: Some(EK.into()),
        authentication: Some(AK.into()),
        ..Keys::default()
    };
    SoftCipher::new(Setup::new(Suite::Suite0, SystemTitle::new(own)), keys).unwrap()
}

/// A client with HLS5, glo-ciphered, over TCP.
pub(crate) fn client() -> Client {
    Client::new(ClientConfig {
        client_sap: 1,
        mechanism: Mechanism::HlsGmac,
        protection: Protection::Glo,
        client_title: Some(SystemTitle::new(CLIENT)),
        expected_server_title: Some(SystemTitle::new(METER)),
        authentication_value: b"K56iVagYK56iVagY".to_vec(),
        ..ClientConfig::default()
    })
}

pub(crate) fn meter() -> Meter {
    let access = ClientAccess::ciphered(1, Mechanism::HlsGmac, vec![]);
    Meter::new(
        MeterConfig::new(SystemTitle::new(METER), vec![access]),
        b"P6wRJ21FP6wRJ21F".to_vec(),
    )
}

pub(crate) fn get() -> Command {
    let attribute = Attribute {
        class_id: 8,
        name: Obis::new(CLOCK),
        index: 2,
    };
    Command::Get {
        attribute,
        selection: None,
    }
}

pub(crate) fn action() -> Command {
    let method = Method {
        class_id: 9,
        name: Obis::new(SCRIPT),
        index: 1,
    };
    Command::Action {
        method,
        parameter: Some(Data::LongUnsigned(1)),
    }
}

fn serve(request: &Request) -> Response {
    let invoke = InvokeId::new(0);
    match request {
        Request::Get { .. } => Response::GetData {
            invoke,
            data: Data::DoubleLongUnsigned(VALUE),
        },
        _ => Response::Action {
            invoke,
            result: ActionResult::SUCCESS,
            data: None,
        },
    }
}

/// Does what a client wants until an event.
pub(crate) fn step_client(
    client: &mut Client,
    keys: &mut SoftCipher,
    mut transmit: impl FnMut(&[u8]),
) -> Option<Event> {
    loop {
        match client.poll()? {
            Effect::Transmit(octets) => transmit(&octets),
            Effect::Cipher(job) => {
                let result = keys.run(job.op);
                client.handle_cipher(0, job.id, result);
            }
            Effect::Event(event) => return Some(event),
            Effect::Timer(_) => {}
        }
    }
}

/// Does what a meter wants until it wants nothing.
pub(crate) fn step_meter(
    meter: &mut Meter,
    keys: &mut SoftCipher,
    mut transmit: impl FnMut(&[u8]),
) {
    while let Some(effect) = meter.poll() {
        match effect {
            meter::Effect::Transmit(octets) => transmit(&octets),
            meter::Effect::Cipher(job) => {
                let result = keys.run(job.op);
                meter.handle_cipher(0, job.id, result);
            }
            meter::Effect::Ask(request) => meter.answer(0, serve(&request)).unwrap(),
            meter::Effect::Event(_) => meter.refill(b"P6wRJ21FP6wRJ21F".to_vec()),
            meter::Effect::Timer(_) => {}
        }
    }
}

/// Client and meter in one memory until the client has an event.
pub(crate) fn until_event(
    client: &mut Client,
    meter: &mut Meter,
    keys: (&mut SoftCipher, &mut SoftCipher),
) -> Event {
    let (client_keys, meter_keys) = keys;
    let mut wire = Vec::with_capacity(256);
    loop {
        wire.clear();
        let event = step_client(client, client_keys, |octets| wire.extend_from_slice(octets));
        if let Some(event) = event {
            return event;
        }
        meter.handle_bytes(0, &wire);
        wire.clear();
        step_meter(meter, meter_keys, |octets| wire.extend_from_slice(octets));
        client.handle_bytes(0, &wire);
    }
}
