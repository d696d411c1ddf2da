//! The manners in which a meter may be talked to.

/// One way of talking to a meter: in the words of `sim meter`, and in those of `meter add`.
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) sim: &'static str,
    pub(crate) add: &'static str,
    /// What the meter takes several commands in: with-list, and ACCESS, which glo and ded have no tags for.
    pub(crate) access: bool,
}

/// Every value at least once, and the pairs that matter: HLS with MD5 and SHA-1 with and without ciphering, each kind of
/// key with another suite, signatures inside and outside of general-ciphering, blocks on every transport.
pub(crate) const MANNERS: [Manner; 16] = [
    Manner {
        name: "tcp-none",
        suite: "0",
        sim: "--auth none",
        add: "--auth none",
        access: true,
    },
    Manner {
        name: "udp-low",
        suite: "0",
        sim: "--auth low --transport udp",
        add: "--auth low --transport udp",
        access: true,
    },
    Manner {
        name: "hdlc-low-ciphered",
        suite: "0",
        sim: "--auth low-ciphered --transport hdlc",
        add: "--auth low --protection glo --transport hdlc --no-release",
        access: false,
    },
    Manner {
        name: "tcp-hls3-plain",
        suite: "0",
        sim: "--auth hls3 --form plain",
        add: "--auth hls3 --protection plain",
        access: true,
    },
    Manner {
        name: "udp-hls4",
        suite: "1",
        sim: "--auth hls4 --form general-glo --policy encrypted --transport udp",
        add: "--auth hls4 --protection general-glo --policy enc --transport udp",
        access: true,
    },
    Manner {
        name: "tcp-hls5",
        suite: "0",
        sim: "--auth hls5 --form glo",
        add: "--auth hls5 --protection glo --mtu 576",
        access: false,
    },
    Manner {
        name: "udp-hls5-ded",
        suite: "1",
        sim: "--auth hls5 --form ded --transport udp",
        add: "--auth hls5 --protection ded --transport udp --mtu 1280",
        access: false,
    },
    Manner {
        name: "hdlc-hls5-general-ded",
        suite: "2",
        sim: "--auth hls5 --form general-ded --transport hdlc --hdlc-address-octets 4 --hdlc-physical-address 300 --hdlc-max-information 512 --hdlc-window 3",
        add: "--auth hls5 --protection general-ded --transport hdlc --hdlc-address-octets 4 --hdlc-physical-address 300 --hdlc-max-information 512 --hdlc-window 3",
        access: true,
    },
    Manner {
        name: "serial-hls6",
        suite: "0",
        sim: "--auth hls6 --form glo --hdlc-physical-address 17 --hdlc-max-information 256",
        add: "--auth hls6 --protection glo --transport hdlc --hdlc-physical-address 17 --hdlc-max-information 256",
        access: false,
    },
    Manner {
        name: "tcp-hls6-identified",
        suite: "1",
        sim: "--auth hls6 --form general-identified --policy authenticated",
        add: "--auth hls6 --protection general-ciphering --key-info identified --policy auth",
        access: true,
    },
    Manner {
        name: "tcp-hls7-certificate",
        suite: "1",
        sim: "--auth hls7 --form glo",
        add: "--auth hls7 --protection glo --send-certificate",
        access: false,
    },
    Manner {
        name: "hdlc-hls7-one-pass",
        suite: "2",
        sim: "--auth hls7 --form general-one-pass --transport hdlc --hdlc-max-information 1024",
        add: "--auth hls7 --protection general-ciphering --key-info one-pass --transport hdlc --hdlc-max-information 1024",
        access: true,
    },
    Manner {
        name: "udp-hls7-static-signed",
        suite: "1",
        sim: "--auth hls7 --form general-static --signed --algorithm-id legacy --transport udp",
        add: "--auth hls7 --protection general-ciphering --key-info static --signed --algorithm-id legacy --transport udp",
        access: true,
    },
    Manner {
        name: "tcp-hls5-wrapped",
        suite: "0",
        sim: "--auth hls5 --form general-wrapped",
        add: "--auth hls5 --protection general-ciphering --key-info wrapped",
        access: true,
    },
    Manner {
        name: "tcp-hls5-suite2-gbt",
        suite: "2",
        sim: "--auth hls5 --form glo --gbt --no-blocks --max-pdu 512",
        add: "--auth hls5 --protection glo --gbt",
        access: false,
    },
    Manner {
        name: "udp-hls7-suite2-signed",
        suite: "2",
        sim: "--auth hls7 --form general-glo --signed --transport udp",
        add: "--auth hls7 --protection general-glo --signed --transport udp",
        access: true,
    },
];

/// The manner whose AARQ carries the head-end's certificate.
pub(crate) const CERTIFIED: &str = "tcp-hls7-certificate";
