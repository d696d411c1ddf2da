//! Every decoder: the first octet of the input selects it.

use dlms::acse::{Aare, Aarq, Rlre, Rlrq};
use dlms::agreement::{KeyAgreement, KeyTransfer, SignedKey};
use dlms::cosem;
use dlms::gbt::{Received, Receiver, Sender};
use dlms::initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse};
use dlms::security::{Envelope, GeneralCiphering, GeneralSigning, Suite};
use dlms::{
    Ciphered, Confirmation, Data, Error, Frame, GeneralBlock, GmacToken, Notification, Obis,
    Reassembler, Request, Response, Selection,
};

use super::input::Input;
use super::memory::measure;

/// Octets that may be held for each octet of input: an octet becomes up to two values of 32 (compact arrays), in a
/// vector that grows, and typed views copy what they read before it is encoded and read again.
const PER_OCTET: usize = 1024;
/// And at all events: texts of errors, the two blocks of a transfer.
const FIXED: usize = 4096;

/// Takes one input through the decoder it selects.
///
/// # Panics
/// If a decoder does, if what it made is not what it encodes to, or if it holds more than the input allows.
pub fn run(octets: &[u8]) {
    let Some((selector, rest)) = octets.split_first() else {
        return;
    };
    let ((), used) = measure(|| select(*selector, rest));
    let bound = FIXED + PER_OCTET * rest.len();
    assert!(
        used.peak <= bound,
        "decoder {selector} held {} octets for {} octets of input",
        used.peak,
        rest.len()
    );
}

/// How many selectors there are.
pub const DECODERS: u8 = 24;

fn select(selector: u8, octets: &[u8]) {
    match selector % DECODERS {
        0 => same(octets, Data::decode, Data::encode),
        1 => same(octets, Request::decode, Request::encode),
        2 => same(octets, Response::decode, Response::encode),
        3 => same(octets, Notification::decode, Notification::encode),
        4 => same(octets, Confirmation::decode, Confirmation::encode),
        5 => same(octets, Selection::decode, Selection::encode),
        6 => same(octets, GeneralBlock::decode, GeneralBlock::encode),
        7 => drop(stable(octets, Aarq::decode, Aarq::encode)),
        8 => drop(stable(octets, Aare::decode, Aare::encode)),
        9 => drop(stable(octets, Rlrq::decode, Rlrq::encode)),
        10 => drop(stable(octets, Rlre::decode, Rlre::encode)),
        11 => same(octets, InitiateRequest::decode, InitiateRequest::encode),
        12 => same(octets, InitiateResponse::decode, InitiateResponse::encode),
        13 => same(
            octets,
            ConfirmedServiceError::decode,
            ConfirmedServiceError::encode,
        ),
        14 => same(octets, Ciphered::decode, Ciphered::encode),
        15 => same(octets, GeneralCiphering::decode, GeneralCiphering::encode),
        16 => same(octets, GeneralSigning::decode, GeneralSigning::encode),
        17 => drop(Envelope::of(octets)),
        18 => same(octets, GmacToken::decode, GmacToken::encode),
        19 => same(octets, Frame::decode, |frame| {
            frame.encode().unwrap_or_default()
        }),
        20 => reassembled(octets),
        21 => typed(octets),
        22 => transferred(octets),
        _ => texts(octets),
    }
}

/// Decoding undoes encoding; nothing else is compared, because BER has many forms of one value.
fn stable<T>(
    octets: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, Error>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Option<Vec<u8>> {
    match decode(octets) {
        Ok(value) => {
            let encoded = encode(&value);
            let again = decode(&encoded).expect("what was encoded can be decoded");
            assert_eq!(encode(&again), encoded);
            Some(encoded)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Also: a form of the canonical length is the canonical form, except for truth values other than 1.
fn same<T>(
    octets: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, Error>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Some(encoded) = stable(octets, decode, encode)
        && encoded.len() == octets.len()
    {
        for (found, canonical) in octets.iter().zip(&encoded) {
            assert!(
                found == canonical || (*canonical == 1 && *found > 1),
                "{found:#04x} became {canonical:#04x}"
            );
        }
    }
}

/// A stream in pieces gives the frames of the stream in one piece.
fn reassembled(octets: &[u8]) {
    let mut input = Input::new(octets);
    let size = usize::from(input.octet()) + 1;
    let stream = input.rest();
    let frames = |size: usize| {
        let mut reassembler = Reassembler::new(512);
        let mut frames = vec![];
        for piece in stream.chunks(size) {
            reassembler.push(piece);
            loop {
                match reassembler.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return (frames, true),
                }
            }
        }
        (frames, false)
    };
    let (split, failed) = frames(size);
    let (octet_by_octet, also_failed) = frames(1);
    // in large pieces a reassembler may be full earlier
    if !failed && !also_failed {
        assert_eq!(split, octet_by_octet);
    }
}

/// The typed views of values.
fn typed(octets: &[u8]) {
    let mut input = Input::new(octets);
    let which = input.octet();
    let Ok(data) = Data::decode(input.rest()) else {
        return;
    };
    macro_rules! read {
        ($($field:expr),* $(,)?) => {{
            $({
                if let Ok(value) = $field.read(&data) {
                    let encoded = $field.data(&value);
                    let again = $field.read(&encoded).expect("what was encoded can be read");
                    assert_eq!($field.data(&again).encode(), encoded.encode());
                }
            })*
        }};
    }
    match which % 8 {
        0 => read!(cosem::clock::TIME, cosem::register::SCALER_UNIT),
        1 => read!(cosem::profile::BUFFER, cosem::profile::CAPTURE_OBJECTS),
        2 => read!(cosem::association::OBJECT_LIST),
        3 => read!(
            cosem::script_table::SCRIPTS,
            cosem::schedule::EXECUTION_TIME
        ),
        4 => read!(cosem::limiter::EMERGENCY_PROFILE, cosem::limiter::ACTIONS),
        5 => read!(
            cosem::security_setup::CERTIFICATES,
            cosem::disconnect_control::CONTROL_STATE
        ),
        6 => {
            drop(KeyTransfer::from_data(&data));
            for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
                drop(KeyAgreement::from_data(suite, &data));
                drop(SignedKey::decode(
                    suite,
                    data.as_bytes().unwrap_or_default(),
                ));
            }
        }
        _ => read!(
            cosem::image_transfer::IMAGE_TO_ACTIVATE_INFO,
            cosem::push_setup::PUSH_OBJECT_LIST
        ),
    }
}

/// Blocks of whatever kind, to both sides of a general block transfer.
fn transferred(octets: &[u8]) {
    let mut input = Input::new(octets);
    let size = usize::from(input.octet());
    let window = input.octet();
    let Ok(mut sender) = Sender::new(vec![0x5A; 200], size, window, 1, 0) else {
        assert_eq!(size, 0);
        return;
    };
    let mut receiver = Receiver::new(300, window, 0);
    while !input.is_empty() {
        let (control, window) = (input.octet(), input.octet());
        let (block, ack) = (u16::from(input.octet()), u16::from(input.octet()));
        let block = GeneralBlock {
            last: control & 1 != 0,
            streaming: control & 2 != 0,
            window,
            block,
            ack,
            data: input.octets().to_vec(),
        };
        drop(sender.acknowledged(block.ack, window));
        if control & 4 != 0 {
            drop(sender.timed_out());
        }
        if let Some(sent) = sender.next_block() {
            assert!(sent.data.len() <= size && sent.block <= sender.blocks());
        }
        if let Ok(Received::Complete(apdu)) = receiver.take(&block) {
            assert!(apdu.len() <= 300);
        }
    }
}

fn texts(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    if let Ok(name) = text.parse::<Obis>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
}
