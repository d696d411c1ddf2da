"""Reads a meter with dlms-cosem 25.1.0, a client that is not ours, and prints what it read as one JSON object.

    dlms_cosem_client.py ADDRESS:PORT LAB_KEYS [--auth none|low|hls5|hls6|hls7] [--protection plain|general-glo]
                         [--transport tcp|udp|hdlc] [--pdu N] [--reset SCRIPT]

The invocation counter is read first, in clear, by the public client. --reset executes a script of 0.0.10.1.0.255.
dlms-cosem always sends general-glo-ciphering, checks every tag, and demands that the meter's counter rises from 1.
Its HLS6 and HLS7 are plugged in here, as its manager interface wants them; its HDLC is framed by length here, because
its own reader stops at a check sum that ends in 7E.
"""
import argparse
import hashlib
import json
import os
import re
import socket
import struct
from datetime import datetime, timedelta, timezone

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils as ecutils
from dlms_cosem import cosem, enumerations, utils
from dlms_cosem.client import DlmsClient
from dlms_cosem.cosem.capture_object import CaptureObject
from dlms_cosem.cosem.selective_access import RangeDescriptor
from dlms_cosem.dlms_data import UnsignedLongData
from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
from dlms_cosem.parsers import AssociationObjectListParser
from dlms_cosem.security import (
    HighLevelSecurityGmacAuthentication, LowLevelSecurityAuthentication, NoSecurityAuthentication,
)
from dlms_cosem.time import datetime_from_bytes

Class = enumerations.CosemInterface


class CheckedIo(BlockingTcpIO):
    """The library's own `recv` spins for ever once the meter closes."""

    def recv(self, amount=1):
        octets = b""
        while len(octets) < amount:
            more = self.tcp_socket.recv(amount - len(octets))
            if not more:
                raise ConnectionError("the meter closed the connection")
            octets += more
        return octets


    def recv_until(self, end):
        """A whole HDLC frame, by its length field."""
        head = self.recv(3)
        return head + self.recv((struct.unpack(">H", head[1:])[0] & 0x7FF) - 1)


class DatagramIo(CheckedIo):
    """One frame a datagram."""

    held = b""

    def connect(self):
        self.tcp_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp_socket.settimeout(self.timeout)
        self.tcp_socket.connect((self.host, self.port))

    def recv(self, amount=1):
        if not self.held:
            self.held = self.tcp_socket.recv(65535)
        octets, self.held = self.held[:amount], self.held[amount:]
        return octets


class Sha256Authentication:
    """HLS6."""

    authentication_method = enumerations.AuthenticationMechanism.HLS_SHA256

    def __init__(self, secret):
        self.secret, self.challenge = secret, os.urandom(16)

    def get_calling_authentication_value(self):
        return self.challenge

    def hls_generate_reply_data(self, connection):
        titles = connection.client_system_title + connection.meter_system_title
        return hashlib.sha256(self.secret + titles + connection.meter_to_client_challenge + self.challenge).digest()

    def hls_meter_data_is_valid(self, data, connection):
        titles = connection.meter_system_title + connection.client_system_title
        due = hashlib.sha256(self.secret + titles + self.challenge + connection.meter_to_client_challenge).digest()
        return bytes(data) == due


class EcdsaAuthentication:
    """HLS7 on P-256."""

    secret = None
    authentication_method = enumerations.AuthenticationMechanism.HLS_ECDSA

    def __init__(self, own, meter):
        self.own = ec.derive_private_key(int.from_bytes(own, "big"), ec.SECP256R1())
        self.meter = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + meter)
        self.challenge = os.urandom(32)

    def get_calling_authentication_value(self):
        return self.challenge

    def hls_generate_reply_data(self, connection):
        titles = connection.client_system_title + connection.meter_system_title
        message = titles + connection.meter_to_client_challenge + self.challenge
        r, s = ecutils.decode_dss_signature(self.own.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def hls_meter_data_is_valid(self, data, connection):
        titles = connection.meter_system_title + connection.client_system_title
        message = titles + self.challenge + connection.meter_to_client_challenge
        r, s = (int.from_bytes(half, "big") for half in (data[:32], data[32:]))
        try:
            self.meter.verify(ecutils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
            return True
        except InvalidSignature:
            return False


def lab_keys(path):
    with open(path, encoding="ascii") as file:
        pairs = re.findall(r'^(\w+)\s*=\s*"([0-9A-Fa-f]*)"', file.read(), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in pairs}


def transport(args, client_sap):
    host, port = args.address.rsplit(":", 1)
    io = (DatagramIo if args.transport == "udp" else CheckedIo)(host, int(port))
    kind = HdlcTransport if args.transport == "hdlc" else TcpTransport
    return kind(client_logical_address=client_sap, server_logical_address=1, io=io)


def attribute(interface, name, index):
    return cosem.CosemAttribute(interface=interface, instance=cosem.Obis.from_string(name), attribute=index)


def value(client, interface, name, index, selection=None):
    return utils.parse_as_dlms_data(client.get(attribute(interface, name, index), selection))


def invocation_counter(args):
    client = DlmsClient(transport=transport(args, 16), authentication=NoSecurityAuthentication(), max_pdu_size=512)
    with client.session() as session:
        return value(session, Class.DATA, "0.0.43.1.0.255", 2)


def authentication(auth, keys):
    if auth == "none":
        return NoSecurityAuthentication()
    if auth == "low":
        return LowLevelSecurityAuthentication(keys["password"])
    if auth == "hls6":
        return Sha256Authentication(keys["hls_secret"])
    if auth == "hls7":
        return EcdsaAuthentication(keys["client_signing_private_key"], keys["server_signing_public_key"])
    # a challenge of 32 octets makes its AARQ longer than 127, with a length it cannot write
    return HighLevelSecurityGmacAuthentication(challenge_length=16)


def management_client(args, keys, counter):
    ciphered = args.protection != "plain"
    return DlmsClient(
        transport=transport(args, 1),
        authentication=authentication(args.auth, keys),
        encryption_key=keys["ek"] if ciphered else None,
        authentication_key=keys["ak"] if ciphered else None,
        client_system_title=keys["client_system_title"],
        client_initial_invocation_counter=counter,
        max_pdu_size=args.pdu,
    )


def newest_entry(client, now):
    clock = CaptureObject(cosem_attribute=attribute(Class.CLOCK, "0.0.1.0.0.255", 2), data_index=0)
    last_hour = RangeDescriptor(restricting_object=clock, from_value=now - timedelta(hours=1), to_value=now)
    rows = value(client, Class.PROFILE_GENERIC, "1.0.99.1.0.255", 2, last_hour)
    when, status, energy = rows[-1]
    return [str(datetime_from_bytes(when)[0]), status, energy]


def read_everything(client):
    relay = "0.0.96.3.10.255"
    clock, _status = datetime_from_bytes(value(client, Class.CLOCK, "0.0.1.0.0.255", 2))
    objects = AssociationObjectListParser.parse_bytes(
        client.get(attribute(Class.ASSOCIATION_LN, "0.0.40.0.0.255", 2)))
    return {
        "logical_device_name": bytes(value(client, Class.DATA, "0.0.42.0.0.255", 2)).decode("ascii"),
        "output_state": value(client, Class.DISCONNECT_CONTROL, relay, 2),
        "control_state": value(client, Class.DISCONNECT_CONTROL, relay, 3),
        "control_mode": value(client, Class.DISCONNECT_CONTROL, relay, 4),
        "power_failures": value(client, Class.DATA, "0.0.96.7.21.255", 2),
        "clock": str(clock),
        "entries_in_use": value(client, Class.PROFILE_GENERIC, "1.0.99.1.0.255", 7),
        "newest_entry": newest_entry(client, clock if clock.tzinfo else clock.replace(tzinfo=timezone.utc)),
        "events": [row[1] for row in value(client, Class.PROFILE_GENERIC, "0.0.99.98.0.255", 2)],
        "objects": len(objects),
    }


def reset(client, script):
    method = cosem.CosemMethod(Class.SCRIPT_TABLE, cosem.Obis.from_string("0.0.10.1.0.255"), 1)
    client.action(method, UnsignedLongData(script).to_bytes())
    return "accepted"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("lab_keys")
    parser.add_argument("--auth", choices=["none", "low", "hls5", "hls6", "hls7"], default="hls5")
    parser.add_argument("--protection", choices=["plain", "general-glo"], default="general-glo")
    parser.add_argument("--transport", choices=["tcp", "udp", "hdlc"], default="tcp")
    parser.add_argument("--pdu", type=int, default=512, help="the largest APDU it receives")
    parser.add_argument("--reset", type=int, metavar="SCRIPT")
    args = parser.parse_args()
    # its log would go to stdout, with every octet
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    counter = invocation_counter(args)
    client = management_client(args, lab_keys(args.lab_keys), counter + 1)
    client.connect()
    client.associate()
    result = read_everything(client)
    result["invocation_counter"] = counter
    if args.reset:
        result["reset"] = reset(client, args.reset)
    else:
        client.release_association()
        client.disconnect()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
