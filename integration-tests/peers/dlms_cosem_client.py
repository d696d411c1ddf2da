"""Reads a meter over HLS5 with dlms-cosem 25.1.0, a client that is not ours, and prints what it read as one JSON object.

    dlms_cosem_client.py ADDRESS:PORT LAB_KEYS [--reset SCRIPT]

The invocation counter is read first, in clear, by the public client. --reset executes a script of 0.0.10.1.0.255.
dlms-cosem always sends general-glo-ciphering, checks every tag, and demands that the meter's counter rises from 1.
"""
import argparse
import json
import re
from datetime import datetime, timedelta, timezone

import structlog
from dlms_cosem import cosem, enumerations, utils
from dlms_cosem.client import DlmsClient
from dlms_cosem.cosem.capture_object import CaptureObject
from dlms_cosem.cosem.selective_access import RangeDescriptor
from dlms_cosem.dlms_data import UnsignedLongData
from dlms_cosem.io import BlockingTcpIO, TcpTransport
from dlms_cosem.parsers import AssociationObjectListParser
from dlms_cosem.security import HighLevelSecurityGmacAuthentication, NoSecurityAuthentication
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


def lab_keys(path):
    with open(path, encoding="ascii") as file:
        pairs = re.findall(r'^(\w+)\s*=\s*"([0-9A-Fa-f]*)"', file.read(), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in pairs}


def transport(address, client_sap):
    host, port = address.rsplit(":", 1)
    return TcpTransport(client_logical_address=client_sap, server_logical_address=1, io=CheckedIo(host, int(port)))


def attribute(interface, name, index):
    return cosem.CosemAttribute(interface=interface, instance=cosem.Obis.from_string(name), attribute=index)


def value(client, interface, name, index, selection=None):
    return utils.parse_as_dlms_data(client.get(attribute(interface, name, index), selection))


def invocation_counter(address):
    client = DlmsClient(transport=transport(address, 16), authentication=NoSecurityAuthentication(), max_pdu_size=512)
    with client.session() as session:
        return value(session, Class.DATA, "0.0.43.1.0.255", 2)


def management_client(address, keys, counter):
    return DlmsClient(
        transport=transport(address, 1),
        # a challenge of 32 octets makes its AARQ longer than 127, with a length it cannot write
        authentication=HighLevelSecurityGmacAuthentication(challenge_length=16),
        encryption_key=keys["ek"],
        authentication_key=keys["ak"],
        client_system_title=keys["client_system_title"],
        client_initial_invocation_counter=counter,
        max_pdu_size=512,
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
    parser.add_argument("--reset", type=int, metavar="SCRIPT")
    args = parser.parse_args()
    # its log would go to stdout, with every octet
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    counter = invocation_counter(args.address)
    client = management_client(args.address, lab_keys(args.lab_keys), counter + 1)
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
