use super::*;

fn read(text: &str) -> Vec<Item> {
    let mut delivery = Delivery::new(text.as_bytes(), Row::new());
    let mut items = Vec::new();
    while let Some(item) = delivery.next_row().unwrap() {
        items.push(item);
    }
    items
}

fn refused(text: &str) -> String {
    let mut delivery = Delivery::new(text.as_bytes(), Row::new());
    loop {
        match delivery.next_row() {
            Ok(Some(_)) => {}
            Ok(None) => return String::new(),
            Err(failure) => return failure.to_string(),
        }
    }
}

#[test]
fn csv_and_json_say_the_same() {
    let csv = "# made by ACME\n# client_system_title = 4c4b480000000001\n# mechanisms=hls5 hls6\n\
        meter_id,server_system_title,wrapped_encryption_key,wrapped_authentication_key,security_suite\n\
        \n\
        m1,4c4b4d0000000001,0102,\"0304\",1\r\n\
        m2;4C4B4D0000000002;05;06;\n";
    let json = r#"{"defaults": {"client_system_title": "4c4b480000000001", "mechanisms": ["hls5", "hls6"]}}
{"meter_id": "m1", "server_system_title": "4c4b4d0000000001", "wrapped_encryption_key": "0102", "wrapped_authentication_key": "0304", "security_suite": 1}
{"meter_id": "m2", "server_system_title": "4c4b4d0000000002", "wrapped_encryption_key": "05", "wrapped_authentication_key": "06", "security_suite": null}
"#;
    let (csv, json) = (read(csv), read(json));
    assert_eq!((csv.len(), json.len()), (2, 2));
    assert_eq!((csv[0].line, csv[1].line), (6, 7));
    assert_eq!((json[0].line, json[1].line), (2, 3));
    for (csv, json) in csv.iter().zip(&json) {
        let (csv, json) = (csv.parsed.as_ref().unwrap(), json.parsed.as_ref().unwrap());
        assert_eq!(csv, json);
        assert_eq!(csv.client_system_title, b"LKH\0\0\0\0\x01");
        assert_eq!(csv.mechanisms.len(), 2);
    }
    assert_eq!(csv[0].parsed.as_ref().unwrap().security_suite, 1);
}

#[test]
fn a_row_that_is_wrong_is_named_and_the_next_is_read() {
    let items = read(
        "meter_id,wrapped_encryption_key,mechanisms\nm1,zz,\nm2,01\nm3,01,hls9\nm4,01,HLS5\nm5,\"01,\n",
    );
    let wrong: Vec<_> = items
        .iter()
        .map(|item| item.parsed.as_ref().err().cloned())
        .collect();
    let wrong: Vec<_> = wrong
        .iter()
        .map(|why| why.as_deref().unwrap_or(""))
        .collect();
    assert_eq!(
        wrong,
        [
            "wrapped_encryption_key is not written in hex",
            "has 2 fields, the heading 3",
            "mechanisms names one that nothing is known of",
            "",
            "has a quotation mark without its other",
        ]
    );
    assert_eq!(items[0].meter_id, "m1");
    let items = read("{\"meter_id\": \"m1\"\n{\"meter_id\": \"m2\", \"ek\": \"00\"}\n");
    assert!(items.iter().all(|item| item.parsed.is_err()));
    assert_eq!(items[1].meter_id, "m2");
}

#[test]
fn a_file_that_is_none_is_refused() {
    for (text, said) in [
        ("meter,ek\nm1,00\n", "line 1"),
        ("# ek = 00\nmeter_id\n", "line 1"),
        ("client_system_title\n00\n", "CSV heading"),
    ] {
        let failure = refused(text);
        assert!(failure.contains(said), "{failure}");
    }
    let long = format!("meter_id\n{}\n", "x".repeat(70_000));
    assert!(refused(&long).contains("longer"));
    assert_eq!(refused(""), "");
}

#[test]
fn what_is_given_beside_the_file_stands_where_it_says_nothing() {
    let defaults = Row::from([("transport".to_owned(), "transport-2".to_owned())]);
    let text = "meter_id,transport\nm1,\nm2,transport-3\n";
    let mut delivery = Delivery::new(text.as_bytes(), defaults);
    let mut next = || {
        delivery
            .next_row()
            .unwrap()
            .unwrap()
            .parsed
            .unwrap()
            .transport
    };
    assert_eq!(
        (next().as_str(), next().as_str()),
        ("transport-2", "transport-3")
    );
}
