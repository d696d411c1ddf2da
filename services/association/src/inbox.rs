//! What a meter says unasked, until somebody asks.

use std::collections::VecDeque;

use dlms::Notification;
use latchkey_proto::{
    association::v1 as pb,
    audit::v1::{Command, CommandService},
};

/// Notifications that are kept; an older one makes room for a newer.
const KEPT_MAX: usize = 16;

/// The notifications of one association since the last call.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    kept: VecDeque<pb::Notification>,
    dropped: u32,
}

impl Inbox {
    /// Keeps a notification.
    pub(crate) fn put(&mut self, notification: &Notification) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
        self.kept.push_back(render(notification));
    }

    /// All that are kept, oldest first, and how many more there were.
    pub(crate) fn take(&mut self) -> (Vec<pb::Notification>, u32) {
        let kept = std::mem::take(&mut self.kept);
        (kept.into(), std::mem::take(&mut self.dropped))
    }
}

fn render(notification: &Notification) -> pb::Notification {
    match notification {
        Notification::Event {
            time,
            attribute,
            value,
        } => pb::Notification {
            attribute: Some(Command {
                service: CommandService::Get.into(),
                class_id: attribute.class_id.into(),
                logical_name: attribute.name.to_string(),
                index: attribute.index.into(),
                ..Command::default()
            }),
            data: value.encode(),
            meter_time: time.map(Vec::from).unwrap_or_default(),
        },
        Notification::Data { time, body, .. } => pb::Notification {
            attribute: None,
            data: body.encode(),
            meter_time: time.map(Vec::from).unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use dlms::{Attribute, Data, LongInvokeId};

    use super::*;

    fn event(code: u8) -> Notification {
        Notification::Event {
            time: Some([7; 12]),
            attribute: Attribute {
                class_id: 1,
                name: "0.0.96.11.0.255".parse().unwrap(),
                index: 2,
            },
            value: Data::Unsigned(code),
        }
    }

    #[test]
    fn the_newest_are_kept_and_the_others_counted() {
        let mut inbox = Inbox::default();
        for code in 0..20 {
            inbox.put(&event(code));
        }
        let (kept, dropped) = inbox.take();
        assert_eq!((kept.len(), dropped), (16, 4));
        assert_eq!(kept[0].data, [0x11, 4]);
        let attribute = kept[15].attribute.as_ref().unwrap();
        assert_eq!(
            (
                attribute.class_id,
                attribute.logical_name.as_str(),
                attribute.index
            ),
            (1, "0.0.96.11.0.255", 2)
        );
        assert_eq!(
            (kept[15].data.as_slice(), kept[15].meter_time.len()),
            (&[0x11, 19][..], 12)
        );
        assert_eq!(inbox.take(), (vec![], 0), "each is told once");
        inbox.put(&Notification::Data {
            invoke: LongInvokeId::new(1),
            time: None,
            body: Data::Null,
        });
        let (kept, _) = inbox.take();
        assert_eq!(
            (kept[0].attribute.is_none(), kept[0].meter_time.len()),
            (true, 0)
        );
    }
}
