//! `latchkey keys`: keys into custody; descriptions, never keys, out of it.
//!
//! A verb, or a few that belong together, has a file of its own here.

mod bulk;
mod certificate;
mod change;
mod client;
mod counter;
mod delivery;
mod fingerprint;
mod import;
mod list;
mod rewrap;
mod rotate;

pub(crate) use client::{ClientKeys, client_keys};

use crate::args;
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(
    verb: args::Keys,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Keys::Generate(args) => import::generate(&args, session, output).await,
        args::Keys::Import(args) => import::import(&args, session, output).await,
        args::Keys::Rewrap { to } => rewrap::rewrap(to, session, output).await,
        args::Keys::Generations => rewrap::generations(session, output).await,
        args::Keys::ImportFile(args) => bulk::run(&args, session, output).await,
        args::Keys::List(args) => list::list(&args, session, output).await,
        args::Keys::Show { meter } => list::show(meter, session, output).await,
        args::Keys::Update(args) => change::update(&args, session, output).await,
        args::Keys::Compromise { meter, reason } => {
            change::compromise(meter, reason, session, output).await
        }
        args::Keys::Counter {
            meter,
            at_least,
            reason,
        } => counter::raise(meter, (at_least, reason), session, output).await,
        args::Keys::Destroy(args) => change::destroy(&args, session, output).await,
        args::Keys::Fingerprint { meter, of } => fingerprint::run(meter, of, session, output).await,
        args::Keys::Rotate(args) => rotate::start(*args, session, output).await,
        args::Keys::Rotations(args) => rotate::manage(args, session, output).await,
        args::Keys::Csr(args) => certificate::csr(&args, session, output).await,
        args::Keys::Certificate(verb) => certificate::run(verb, session, output).await,
        args::Keys::Client { suite } => client::run(suite, session, output).await,
    }
}

/// Hex of an exact length. The text itself is not repeated: it may be a key.
fn octets(flag: &str, text: &str, length: usize) -> Result<Vec<u8>, Failure> {
    match hex::decode(text) {
        Ok(octets) if octets.len() == length => Ok(octets),
        _ => Err(Failure::usage(format!(
            "{flag} is malformed: expected {length} octets in hex ({} digits)",
            length * 2
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_have_an_exact_length() {
        assert_eq!(octets("--x", "0102", 2).unwrap(), [1, 2]);
        for text in ["01", "010203", "zz", "0102 "] {
            let said = octets("--x", text, 2).unwrap_err().to_string();
            assert!(said.contains("4 digits") && !said.contains("zz"), "{said}");
        }
    }
}
