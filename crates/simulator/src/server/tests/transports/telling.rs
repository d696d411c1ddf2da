//! What a meter says unasked.

use dlms::Notification;

use super::*;

#[tokio::test]
async fn events_reach_who_negotiated_them() {
    for transport in NETWORKS {
        let meeting = Meeting::over(transport.clone());
        let rig = meeting
            .rig(|options| {
                options.notify.events = true;
                options.fault = Some("partial-metrology-only".parse().unwrap());
            })
            .await;
        let mut head_end = meeting.head_end(&rig);
        head_end.config.conformance = head_end.config.conformance | Conformance::EVENT_NOTIFICATION;
        let mut association = head_end.association().await;
        let reset = association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await;
        assert_eq!(reset, Some(0), "{transport}");
        let (mut told, mut asked) = (vec![], false);
        while told.len() < 2 {
            // over HDLC a meter speaks only when it is asked
            let event = if transport == Transport::Hdlc && !asked {
                association
                    .ask(Command::Get {
                        attribute: relay(),
                        selection: None,
                    })
                    .await
            } else {
                association.event().await
            };
            asked = false;
            match event {
                role::Event::Notified(Notification::Event { value, .. }) => {
                    told.push(value);
                    asked = true;
                }
                role::Event::Answered(_) => {}
                other => panic!("{transport}: {other:?}"),
            }
        }
        let codes = [code::POWER_DOWN, code::POWER_UP].map(Data::LongUnsigned);
        assert_eq!(told, codes, "{transport}");
    }
}

#[tokio::test]
async fn a_meter_that_is_back_says_so() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let (listener, socket) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        );
        let address = if transport == Transport::Udp {
            socket.local_addr().unwrap()
        } else {
            listener.local_addr().unwrap()
        };
        let meeting = Meeting::over(transport.clone());
        let rig = meeting
            .rig(|options| options.notify.push = Some(address))
            .await;
        let mut head_end = meeting.head_end(&rig);
        let mut association = head_end.association().await;
        association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await;
        drop(association);
        let mut octets = vec![0; 512];
        let count = if transport == Transport::Udp {
            socket.recv(&mut octets).await.unwrap()
        } else {
            use tokio::io::AsyncReadExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            octets.clear();
            stream.read_to_end(&mut octets).await.unwrap()
        };
        let frame = dlms::Frame::decode(&octets[..count]).unwrap();
        let Ok(Notification::Data { body, .. }) = Notification::decode(&frame.apdu) else {
            panic!("{frame:?}")
        };
        let body = body.as_elements().unwrap();
        assert_eq!(body[2], Data::DoubleLongUnsigned(1), "{transport}");
    }
}
