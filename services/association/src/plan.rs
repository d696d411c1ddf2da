//! How an association would fit the meter's link, before anything is sent: what is proposed for the meter's answers, and
//! how commands would cross.

use std::net::SocketAddr;

use dlms::{
    Access, Command, Conformance, LinkConfig, Mechanism,
    fit::{self, Crossing, Envelope, Network, Path},
    security::GeneralSigning,
};
use latchkey_proto::association::v1::{CommandFit, Fit, PlanAssociationResponse};

use crate::{
    command::single,
    directory::{Address, Meter},
    error::Error,
    proposal::{Manner, link},
};

/// A meter's link, and how APDUs are protected on it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    fit: fit::Plan,
    /// The longest APDU this side receives.
    pub(crate) max_pdu: u16,
}

impl Plan {
    /// For the services that will be proposed. Of what the link carries in one frame, no more than `limit` is proposed.
    pub(crate) fn new(
        meter: &Meter,
        manner: &Manner,
        conformance: Conformance,
        limit: u16,
    ) -> Result<Self, Error> {
        let network = match meter.address {
            Address::Ip(SocketAddr::V6(_)) => Network::V6,
            // A serial line has HDLC, for which it does not matter.
            Address::Ip(SocketAddr::V4(_)) | Address::Serial(_) => Network::V4,
        };
        let fit = fit::Plan {
            path: Path {
                link: link(meter),
                network,
                mtu: meter.link_mtu,
            },
            envelope: Envelope {
                protection: manner.protection()?,
                control: manner.control(),
                signed: manner.security.signed,
            },
            conformance,
        };
        let least = pass_4(manner.mechanism()?, &fit.envelope);
        let max_pdu = fit.max_pdu().map_or(limit, |frame| frame.max(least));
        Ok(Self {
            fit,
            max_pdu: max_pdu.min(limit),
        })
    }

    /// What one frame of the link carries, if that is known and the link does not cut APDUs up by itself; else 0.
    pub(crate) fn frame(&self) -> u16 {
        match self.fit.path.link {
            LinkConfig::Hdlc(_) => 0,
            LinkConfig::Tcp | LinkConfig::Udp => self
                .fit
                .frame()
                .map_or(0, |frame| u16::try_from(frame).unwrap_or(u16::MAX)),
        }
    }

    /// Now that the meter has granted these services.
    pub(crate) fn granted(&mut self, conformance: Conformance) {
        self.fit.conformance = conformance;
    }

    /// Refuses a request that would not cross: longer than one frame of the link, or than the meter receives, without
    /// blocks granted for it. IP would cut it up, and a mesh loses what has one fragment missing.
    pub(crate) fn check(&self, command: &Command, server_max_pdu: u16) -> Result<(), Error> {
        let crossing = self.fit.request(command, server_max_pdu);
        if crossing.fit == fit::Fit::TooLong {
            return Err(Error::DoesNotFit(format!(
                "it would take {} octets on the link",
                crossing.octets.unwrap_or_default()
            )));
        }
        let least = sealed(least_answer(command), &self.fit.envelope);
        if least > usize::from(self.max_pdu) && !self.answers_in_blocks(command) {
            return Err(Error::DoesNotFit(format!(
                "its shortest answer has {least} octets, and {} are taken at once",
                self.max_pdu
            )));
        }
        Ok(())
    }

    /// Whether a long answer may come in parts.
    fn answers_in_blocks(&self, command: &Command) -> bool {
        let granted = |service| self.fit.conformance.contains(service);
        let of_service = match command {
            Command::Get { .. } | Command::GetList(_) => granted(Conformance::BLOCK_TRANSFER_GET),
            Command::Action { .. } | Command::ActionList(_) => {
                granted(Conformance::BLOCK_TRANSFER_ACTION)
            }
            Command::Set { .. } | Command::SetList(_) | Command::Access(_) => false,
        };
        of_service || granted(Conformance::GENERAL_BLOCK_TRANSFER)
    }

    /// How each command would cross, and its answer.
    pub(crate) fn render(&self, commands: Vec<Access>) -> PlanAssociationResponse {
        let fits = commands.into_iter().map(|access| {
            let command = single(access);
            // How much the meter receives is known when it has answered the AARQ.
            let request = self.fit.request(&command, 0);
            let response = self.fit.response(&command, self.max_pdu);
            CommandFit {
                request: fit_of(request).into(),
                request_octets: octets(request),
                response: fit_of(response).into(),
                response_octets: octets(response),
            }
        });
        PlanAssociationResponse {
            client_max_receive_pdu_size: self.max_pdu.into(),
            fits: fits.collect(),
        }
    }
}

/// The octets of the answer that authenticates the meter, protected: it has no blocks, so less cannot be proposed. 0
/// without HLS.
fn pass_4(mechanism: Mechanism, envelope: &Envelope) -> u16 {
    let suite = envelope.control.suite().unwrap_or_default();
    let Some(token) = mechanism.token_len(suite) else {
        return 0;
    };
    // C7 01 id 00 01 00 09 length
    u16::try_from(sealed(token.saturating_add(8), envelope)).unwrap_or(u16::MAX)
}

/// An APDU with its protection.
fn sealed(plain: usize, envelope: &Envelope) -> usize {
    let ciphered = plain.saturating_add(envelope.protection.overhead(envelope.control, plain));
    let signature = match envelope.signed {
        true => {
            let suite = envelope.control.suite().unwrap_or_default();
            GeneralSigning::overhead(suite, ciphered)
        }
        false => 0,
    };
    ciphered.saturating_add(signature)
}

/// What a meter cannot do without in an answer: for each command of a list a result, of two octets, of a SET of one. An
/// ACCESS may end with the first.
fn least_answer(command: &Command) -> usize {
    // tag, form, id, count
    let listed = |count: usize, each: usize| count.saturating_mul(each).saturating_add(4);
    match command {
        Command::Get { .. } | Command::Set { .. } | Command::Action { .. } => 4,
        Command::GetList(list) => listed(list.len(), 2),
        Command::SetList(list) => listed(list.len(), 1),
        Command::ActionList(list) => listed(list.len(), 2),
        Command::Access(_) => 12,
    }
}

const fn fit_of(crossing: Crossing) -> Fit {
    match crossing.fit {
        fit::Fit::OneFrame => Fit::OneFrame,
        fit::Fit::Blocks => Fit::Blocks,
        fit::Fit::TooLong => Fit::TooLong,
    }
}

fn octets(crossing: Crossing) -> u32 {
    crossing
        .octets
        .map_or(0, |octets| u32::try_from(octets).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use kit::clock;
    use latchkey_proto::{
        association::v1 as pb,
        audit::v1::{self as audit, CommandService},
        custody::v1::{Mechanism, Protection, Security},
    };

    use super::*;
    use crate::{command::parse_all, directory::tests::sample, proposal::conformance};

    fn command(service: CommandService, name: &str, class_id: u32, index: i32) -> audit::Command {
        audit::Command {
            service: service.into(),
            class_id,
            logical_name: name.to_owned(),
            index,
            ..audit::Command::default()
        }
    }

    fn plan(change: fn(&mut pb::Meter), commands: &[audit::Command]) -> (Plan, Vec<Access>) {
        let mut message = sample("m-1", "[fd20::1]:4059");
        change(&mut message);
        let meter = Meter::parse(&message, clock::from_micros(0)).unwrap();
        let manner = Manner::of(&meter, false);
        let services = conformance(commands, &meter, &manner);
        let plan = Plan::new(&meter, &manner, services, 1_024).unwrap();
        (plan, parse_all(commands, 64).unwrap())
    }

    /// A script of a reset, the clock, and a load profile.
    fn commands() -> Vec<audit::Command> {
        let script = audit::Command {
            parameter: vec![0x12, 0, 3],
            ..command(CommandService::Action, "0.0.10.1.0.255", 9, 1)
        };
        vec![
            script,
            command(CommandService::Get, "0.0.1.0.0.255", 8, 2),
            command(CommandService::Get, "1.0.99.1.0.255", 7, 2),
        ]
    }

    #[test]
    fn a_plan_says_what_crosses_in_one_frame() {
        let (plan, accesses) = plan(
            |meter| {
                meter.transport = pb::Transport::Udp.into();
                meter.link_mtu = 1_280;
            },
            &commands(),
        );
        let said = plan.render(accesses);
        // 1280 - 40 (IPv6) - 8 (UDP) - 8 (wrapper) would fit; more than the configured limit is not proposed.
        assert_eq!(said.client_max_receive_pdu_size, 1_024);
        let [script, clock, profile] = said.fits[..] else {
            panic!("three commands")
        };
        assert_eq!(
            (script.request(), script.request_octets),
            (Fit::OneFrame, 91)
        );
        assert_eq!(
            (clock.request(), clock.response()),
            (Fit::OneFrame, Fit::OneFrame)
        );
        assert!(clock.response_octets > 56);
        assert_eq!(
            (profile.response(), profile.response_octets),
            (Fit::Blocks, 0),
            "nobody knows how long a profile is"
        );
    }

    #[test]
    fn a_narrow_link_is_proposed_what_it_carries() {
        let (plan, accesses) = plan(|meter| meter.link_mtu = 256, &commands());
        // 256 - 40 (IPv6) - 20 (TCP) - 8 (wrapper)
        assert_eq!(plan.max_pdu, 188);
        let said = plan.render(accesses);
        assert!(said.fits.iter().all(|fit| fit.request() == Fit::OneFrame));
    }

    #[test]
    fn there_is_always_room_for_the_meter_to_authenticate_itself() {
        let (plan, _) = plan(
            |meter| {
                meter.transport = pb::Transport::Hdlc.into();
                meter.mechanism = Mechanism::HlsEcdsa.into();
                meter.protection = Protection::GeneralGlo.into();
                meter.security = Some(Security {
                    suite: 2,
                    ..Security::default()
                });
            },
            &commands(),
        );
        // 96 of the signature, 8 before it, 28 around it; one HDLC frame carries 125.
        assert_eq!(plan.max_pdu, 96 + 8 + 28);
    }

    #[test]
    fn what_cannot_cross_is_not_sent() {
        let long = audit::Command {
            parameter: [&[0x09, 0x81, 200][..], &[7; 200]].concat(),
            ..command(CommandService::Set, "0.0.96.50.0.255", 1, 2)
        };
        let (mut plan, accesses) = plan(|meter| meter.link_mtu = 256, &[long]);
        let command = single(accesses.into_iter().next().unwrap());
        assert!(plan.check(&command, 0).is_ok(), "in blocks");
        plan.granted(Conformance::SET);
        let Err(Error::DoesNotFit(why)) = plan.check(&command, 0) else {
            panic!("it fits without blocks")
        };
        assert!(why.contains("octets on the link"), "{why}");
    }

    #[test]
    fn what_cannot_be_answered_is_not_asked() {
        let many = vec![command(CommandService::Get, "0.0.1.0.0.255", 8, 2); 16];
        let (mut plan, accesses) = plan(|meter| meter.link_mtu = 128, &many);
        // 128 - 40 (IPv6) - 20 (TCP) - 8 (wrapper)
        assert_eq!(plan.max_pdu, 60);
        let list = |accesses: &[Access]| {
            let gets = accesses.iter().map(|access| match access {
                Access::Get {
                    attribute,
                    selection,
                } => (*attribute, selection.clone()),
                other => panic!("{other:?}"),
            });
            Command::GetList(gets.collect())
        };
        // The request goes in one frame over another link.
        plan.fit.path.mtu = 0;
        assert!(plan.check(&list(&accesses), 0).is_ok(), "in blocks");
        plan.granted(Conformance::GET | Conformance::MULTIPLE_REFERENCES);
        assert!(plan.check(&list(&accesses), 0).is_ok(), "4 + 16 x 2 + 19");
        plan.max_pdu = 54;
        let Err(Error::DoesNotFit(why)) = plan.check(&list(&accesses), 0) else {
            panic!("16 results fit 54 octets")
        };
        assert!(why.contains("55 octets"), "{why}");
        assert!(plan.check(&list(&accesses[1..]), 0).is_ok());
    }
}
