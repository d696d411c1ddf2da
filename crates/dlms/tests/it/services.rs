//! Every service in every form over every link, on a line without faults: what is asked is done once and answered, in as
//! many blocks as the sizes demand, and nothing longer than was negotiated is sent.

use dlms::client::Event;
use dlms::{
    Access, Command, Conformance, Data, Error, KeyChoice, LinkConfig, LongInvokeId, Mechanism,
    Notification, Protection, Response, SecurityControl, Suite, hdlc, meter,
};

use crate::cosem::{attribute, expected, method, numbers, parameter, same};
use crate::joined::{ALL, FORMS, MECHANISMS, Terms};
use crate::world::World;

fn links() -> [LinkConfig; 3] {
    let line = hdlc::Config {
        max_info: 256,
        window: 2,
        ..hdlc::Config::default()
    };
    [LinkConfig::Tcp, LinkConfig::Udp, LinkConfig::Hdlc(line)]
}

/// Authenticated and encrypted, suite 1, APDUs of 1024 octets.
fn terms(mechanism: Mechanism, form: Protection) -> Terms {
    Terms {
        link: LinkConfig::Tcp,
        mechanism,
        form,
        control: SecurityControl::of(Suite::Suite1, true, true),
        signed: false,
        client_pdu: 1024,
        meter_pdu: 1024,
        conformance: ALL,
    }
}

/// One command of each service; long ones send and fetch this many octets.
fn commands(long: usize) -> Vec<Command> {
    let octets = u16::try_from(long).unwrap();
    let (near, far) = (attribute(4), attribute(octets));
    let (silent, talking) = (method(0), method(octets));
    vec![
        Command::Get {
            attribute: far,
            selection: None,
        },
        Command::Set {
            attribute: near,
            selection: None,
            value: parameter(1, long),
        },
        Command::Action {
            method: silent,
            parameter: None,
        },
        Command::Action {
            method: talking,
            parameter: Some(parameter(2, long)),
        },
        Command::GetList(vec![(near, None), (far, None), (attribute(65_000), None)]),
        Command::SetList(vec![
            (near, None, parameter(3, long)),
            (far, None, parameter(4, 0)),
        ]),
        Command::ActionList(vec![
            (silent, Some(parameter(5, long))),
            (talking, Some(parameter(6, 3))),
        ]),
        Command::Access(vec![
            Access::Get {
                attribute: far,
                selection: None,
            },
            Access::Set {
                attribute: near,
                selection: None,
                value: parameter(7, long),
            },
            Access::Action {
                method: silent,
                parameter: Some(parameter(8, 0)),
            },
        ]),
    ]
}

fn opened(terms: &Terms) -> World {
    let mut world = terms.world(3);
    world.open();
    let event = world.event();
    assert!(matches!(event, Event::Opened { .. }), "{terms:?} {event:?}");
    world
}

/// Asks for everything, and releases.
fn live(terms: &Terms, long: usize) -> World {
    let mut world = opened(terms);
    for command in commands(long) {
        world.request(command.clone());
        let response = world.answer();
        assert!(
            same(&response, &expected(&command)),
            "{terms:?} {command:?} {response:?}"
        );
        for number in numbers(&command) {
            assert_eq!(world.effects.get(&number), Some(&1), "{terms:?}");
        }
    }
    world.client.release(world.now);
    world.run();
    assert_eq!(world.event(), Event::Released);
    world.drain();
    assert!(
        matches!(
            world.meter_events.as_slice(),
            [meter::Event::Opened { .. }, meter::Event::Released]
        ),
        "{:?}",
        world.meter_events
    );
    world
}

#[test]
fn every_mechanism_in_every_form_over_every_link() {
    for link in links() {
        for mechanism in MECHANISMS {
            for form in FORMS {
                let link = link.clone();
                live(
                    &Terms {
                        link,
                        ..terms(mechanism, form)
                    },
                    200,
                );
            }
        }
    }
}

#[test]
fn every_suite_with_every_control_signed_and_unsigned() {
    let signed_forms = [
        Protection::Plain,
        Protection::Glo,
        Protection::GeneralDed,
        Protection::GeneralCiphering(KeyChoice::Static),
    ];
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        for (authenticated, encrypted) in [(true, false), (false, true), (true, true)] {
            let control = SecurityControl::of(suite, authenticated, encrypted);
            for form in FORMS {
                let agreed = matches!(
                    form,
                    Protection::GeneralCiphering(KeyChoice::OnePass | KeyChoice::Static)
                );
                // a dedicated key never travels in clear, and suite 0 has no curve
                if (form.is_dedicated() && !encrypted) || (agreed && suite == Suite::Suite0) {
                    continue;
                }
                live(
                    &Terms {
                        control,
                        ..terms(Mechanism::HlsGmac, form)
                    },
                    60,
                );
            }
        }
        for form in signed_forms {
            let signed = true;
            let control = SecurityControl::of(suite, true, true);
            let terms = Terms {
                control,
                signed,
                ..terms(Mechanism::HlsEcdsa, form)
            };
            if suite == Suite::Suite0 {
                let mut world = terms.world(1);
                world.open();
                assert!(matches!(
                    world.event(),
                    Event::Failed(dlms::Cause::Config(_))
                ));
            } else {
                live(&terms, 60);
            }
        }
    }
}

/// The octets of a frame besides its APDU.
fn wrapped(longest: usize) -> usize {
    longest - dlms::wrapper::HEADER
}

#[test]
fn long_requests_and_answers_go_in_blocks_of_their_service() {
    let conformance = Conformance::new(ALL.bits() & !Conformance::GENERAL_BLOCK_TRANSFER.bits());
    for form in [
        Protection::Plain,
        Protection::Glo,
        Protection::GeneralGlo,
        Protection::GeneralCiphering(KeyChoice::Identified),
    ] {
        for pdu in [160, 161, 200, 255, 256, 300, 512] {
            let terms = Terms {
                client_pdu: pdu,
                meter_pdu: pdu,
                conformance,
                ..terms(Mechanism::None, form)
            };
            let mut world = opened(&terms);
            world.longest = [0; 2];
            // ACCESS has no blocks of its own
            for command in commands(900).into_iter().take(7) {
                world.request(command.clone());
                assert!(
                    same(&world.answer(), &expected(&command)),
                    "{terms:?} {command:?}"
                );
            }
            let longest = world.longest.map(wrapped);
            assert!(
                longest.iter().all(|longest| *longest <= usize::from(pdu)),
                "{terms:?}"
            );
            assert!(
                longest.iter().all(|longest| longest + 2 > usize::from(pdu)),
                "filled: {longest:?} {terms:?}"
            );
            assert!(!world.tags.contains(&0xE0));
            let access = commands(900).pop().unwrap();
            let refused = world.client.request(world.now, access);
            assert!(
                matches!(refused, Err(Error::TooLong { limit, .. }) if limit == usize::from(pdu))
            );
        }
    }
}

#[test]
fn general_blocks_carry_what_has_no_blocks_of_its_own_but_only_where_they_are_negotiated() {
    let none = Conformance::BLOCK_TRANSFER_GET.bits()
        | Conformance::BLOCK_TRANSFER_SET.bits()
        | Conformance::BLOCK_TRANSFER_ACTION.bits();
    for link in links() {
        for form in [Protection::Plain, Protection::Glo, Protection::GeneralDed] {
            for signed in [false, true] {
                let terms = Terms {
                    link: link.clone(),
                    client_pdu: 200,
                    meter_pdu: 220,
                    signed,
                    conformance: Conformance::new(ALL.bits() & !none),
                    ..terms(Mechanism::HlsGmac, form)
                };
                let world = live(&terms, 900);
                if !matches!(link, LinkConfig::Hdlc(_)) {
                    assert!(world.tags.contains(&0xE0));
                    let [to_client, to_meter] = world.longest.map(wrapped);
                    assert_eq!((to_client, to_meter), (200, 220), "{terms:?}");
                }
            }
        }
    }
    let general = Conformance::GENERAL_BLOCK_TRANSFER.bits();
    let terms = Terms {
        meter_pdu: 220,
        conformance: Conformance::new(ALL.bits() & !none & !general),
        ..terms(Mechanism::None, Protection::Glo)
    };
    let mut world = opened(&terms);
    for command in commands(900) {
        let (before, long) = (world.tags.len(), !matches!(command, Command::Get { .. }));
        let small = matches!(
            command,
            Command::Action {
                parameter: None,
                ..
            } | Command::GetList(_)
        );
        let refused = world.client.request(world.now, command).is_err();
        if refused {
            assert!(long && !small);
            assert_eq!(world.tags.len(), before, "nothing was sent");
        } else {
            world.run();
            world.answer();
        }
    }
}

#[test]
fn an_answer_that_fits_nothing_is_an_exception() {
    let terms = Terms {
        client_pdu: 200,
        conformance: Conformance::GET | Conformance::SET,
        ..terms(Mechanism::None, Protection::Plain)
    };
    let mut world = opened(&terms);
    world.request(commands(900).remove(0));
    assert_eq!(
        world.answer(),
        Response::Exception(dlms::Exception::TOO_LONG)
    );
    assert!(world.client.is_ready());
}

fn push(number: u32) -> Notification {
    Notification::Data {
        invoke: LongInvokeId::new(number),
        time: Some([7; 12]),
        body: parameter(number, 30),
    }
}

fn event() -> Notification {
    Notification::Event {
        time: None,
        attribute: attribute(4),
        value: Data::Unsigned(2),
    }
}

#[test]
fn the_meter_tells_at_any_time_and_is_confirmed() {
    for link in links() {
        for form in FORMS {
            let link = link.clone();
            let mut world = opened(&Terms {
                link,
                ..terms(Mechanism::HlsGmac, form)
            });
            // while nothing is asked, and while something is
            for notification in [push(1), event()] {
                world.notify(&notification).unwrap();
                world.run();
                assert_eq!(world.event(), Event::Notified(notification), "{form:?}");
                let command = commands(20).remove(0);
                world.client.request(world.now, command.clone()).unwrap();
                world.notify(&push(2)).unwrap();
                world.run();
                assert_eq!(world.event(), Event::Notified(push(2)), "{form:?}");
                world.run();
                assert!(same(&world.answer(), &expected(&command)));
            }
            world.drain();
            let confirmed = |event: &meter::Event| matches!(event, meter::Event::Confirmed(_));
            let confirmed = world
                .meter_events
                .iter()
                .filter(|event| confirmed(event))
                .count();
            assert_eq!(confirmed, 3, "{form:?}: an event is not confirmed");
        }
    }
}

#[test]
fn a_notification_needs_an_open_association_the_service_and_room() {
    let mut world = terms(Mechanism::HlsGmac, Protection::Glo).world(1);
    assert!(matches!(
        world.notify(&event()),
        Err(Error::State {
            found: "not associated",
            ..
        })
    ));
    for (conformance, told) in [
        (Conformance::GET, [false, false]),
        (
            Conformance::GET | Conformance::EVENT_NOTIFICATION,
            [true, false],
        ),
        // a data notification has no service-specific tag
        (
            Conformance::GET | Conformance::DATA_NOTIFICATION,
            [false, false],
        ),
        (
            Conformance::DATA_NOTIFICATION | Conformance::GENERAL_PROTECTION,
            [false, true],
        ),
    ] {
        let mut world = opened(&Terms {
            conformance,
            ..terms(Mechanism::None, Protection::Glo)
        });
        let found = [event(), push(1)].map(|notification| {
            let told = world.notify(&notification).is_ok();
            world.run();
            assert_eq!(world.events.drain(..).count(), usize::from(told));
            told
        });
        assert_eq!(found, told, "{conformance:?}");
    }
    let client_pdu = 60;
    let mut world = opened(&Terms {
        client_pdu,
        ..terms(Mechanism::None, Protection::Plain)
    });
    let long = Notification::Data {
        invoke: LongInvokeId::new(1),
        time: None,
        body: parameter(1, 100),
    };
    assert!(matches!(
        world.notify(&long),
        Err(Error::TooLong { limit: 60, .. })
    ));
}

#[test]
fn access_in_a_service_specific_form_needs_general_protection() {
    let access = || commands(4).pop().unwrap();
    let without = Conformance::new(ALL.bits() & !Conformance::GENERAL_PROTECTION.bits());
    for form in [Protection::Glo, Protection::Ded] {
        let mut world = opened(&Terms {
            conformance: without,
            ..terms(Mechanism::None, form)
        });
        let refused = world.client.request(world.now, access());
        assert!(matches!(refused, Err(Error::State { .. })));
        assert!(world.client.is_ready());
        let mut world = opened(&terms(Mechanism::None, form));
        world.request(access());
        assert!(same(&world.answer(), &expected(&access())));
    }
}

#[test]
fn an_idle_line_is_silent_unless_the_meter_may_have_to_tell_something() {
    let [_, _, line] = links();
    for (told, conformance) in [
        (false, Conformance::GET),
        (true, Conformance::GET | Conformance::EVENT_NOTIFICATION),
    ] {
        let mut world = opened(&Terms {
            link: line.clone(),
            conformance,
            ..terms(Mechanism::None, Protection::Plain)
        });
        world.request(commands(10).remove(0));
        world.answer();
        world.longest = [0; 2];
        world.drain();
        assert_eq!(world.longest != [0; 2], told, "polled");
        assert!(world.client.is_ready());
    }
}

#[test]
fn what_the_holder_of_the_keys_refuses_is_not_sent_but_half_a_command_is_a_failure() {
    for form in [Protection::Plain, Protection::Glo] {
        let terms = Terms {
            meter_pdu: 100,
            ..terms(Mechanism::None, form)
        };
        let set = || commands(300).remove(1);
        let mut world = opened(&terms);
        let before = world.tags.len();
        world.refusals = vec![true];
        world.request(set());
        let refused = dlms::CipherFailure::Refused;
        assert_eq!(world.event(), Event::NotSent(refused));
        assert_eq!(world.tags.len(), before, "{form:?}");
        // and the association lives
        world.request(set());
        assert!(matches!(world.answer(), Response::Set { .. }));
        // the second block is refused: the first has left
        world.refusals = vec![false, true];
        world.request(set());
        let Event::Failed(cause) = world.event() else {
            panic!("{form:?}")
        };
        let during = dlms::Awaiting::Answer;
        let failure = refused;
        assert_eq!(cause, dlms::Cause::Cipher { during, failure });
        assert_eq!(
            world.effects.get(&1),
            Some(&1),
            "one of the two was executed"
        );
    }
}

#[test]
fn a_plain_command_leaves_as_it_was_asked_for_or_not_at_all() {
    let terms = terms(Mechanism::None, Protection::Plain);
    let mut client = opened(&terms).client;
    client.request(0, commands(10).remove(2)).unwrap();
    let Some(dlms::Effect::Cipher(job)) = client.poll() else {
        panic!("the holder of the keys is not asked")
    };
    let another = commands(10).remove(0).with(dlms::InvokeId::new(1)).encode();
    client.handle_cipher(0, job.id, Ok(dlms::CipherOutput::Apdu(another, 0)));
    let failed = core::iter::from_fn(|| client.poll()).collect::<Vec<_>>();
    assert!(
        matches!(
            failed.as_slice(),
            [dlms::Effect::Event(Event::Failed(
                dlms::Cause::BadCipherOutput { .. }
            ))]
        ),
        "{failed:?}"
    );
}
