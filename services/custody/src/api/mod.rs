//! The gRPC services: parse, authorise, call, render.

mod certificates;
mod cipher;
mod incoming;
mod keys;
mod rewrap;
mod stock;
mod stream;

use latchkey_proto::custody::v1::Mechanism;

use crate::error::Error;

/// Every mechanism that can be said.
const MECHANISMS: [Mechanism; 7] = [
    Mechanism::None,
    Mechanism::Low,
    Mechanism::HlsMd5,
    Mechanism::HlsSha1,
    Mechanism::HlsGmac,
    Mechanism::HlsSha256,
    Mechanism::HlsEcdsa,
];

/// A mechanism as the standard numbers it; none if it was not said.
fn mechanism(said: Mechanism) -> Option<dlms::Mechanism> {
    match said {
        Mechanism::Unspecified => None,
        Mechanism::None => Some(dlms::Mechanism::None),
        Mechanism::Low => Some(dlms::Mechanism::Low),
        Mechanism::HlsGmac => Some(dlms::Mechanism::HlsGmac),
        Mechanism::HlsMd5 => Some(dlms::Mechanism::HlsMd5),
        Mechanism::HlsSha1 => Some(dlms::Mechanism::HlsSha1),
        Mechanism::HlsSha256 => Some(dlms::Mechanism::HlsSha256),
        Mechanism::HlsEcdsa => Some(dlms::Mechanism::HlsEcdsa),
    }
}

/// What is wrong with a request, field by field: all of it at once.
#[derive(Default)]
struct Violations(Vec<(String, String)>);

impl Violations {
    fn check(&mut self, field: &str, checked: Result<(), String>) {
        if let Err(why) = checked {
            self.0.push((field.to_owned(), why));
        }
    }

    fn length(&mut self, field: &str, octets: &[u8], allowed: &[std::ops::RangeInclusive<usize>]) {
        if !allowed.iter().any(|range| range.contains(&octets.len())) {
            let wanted: Vec<_> = allowed
                .iter()
                .map(|r| {
                    if r.start() == r.end() {
                        r.start().to_string()
                    } else {
                        format!("{}..{}", r.start(), r.end())
                    }
                })
                .collect();
            self.check(
                field,
                Err(format!(
                    "must have {} octets, has {}",
                    wanted.join(" or "),
                    octets.len()
                )),
            );
        }
    }

    fn none(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Request(self.0))
        }
    }
}
