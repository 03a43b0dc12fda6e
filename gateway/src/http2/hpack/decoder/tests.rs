use super::*;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Undecodable> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        fields.push(match field {
            Field::Pseudo(name, value) => {
                (name.as_str().to_owned(), String::from_utf8(value.to_vec()).unwrap())
            }
            Field::Regular(name, value) => (name.to_string(), value.to_str().unwrap().to_owned()),
            Field::Malformed(size) => ("malformed".to_owned(), size.to_string()),
        });
    })?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];

fn check(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)], size: usize) {
    let fields = decoded(decoder, &hex(block)).unwrap();
    let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(fields, expected);
    assert_eq!(decoder.size, size);
}

#[test]
fn the_requests_of_appendix_c_4() {
    let mut decoder = Decoder::default();
    check(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &GET, 57);
    let second = [&GET[..], &[("cache-control", "no-cache")]].concat();
    check(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", &second, 110);
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let block = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
    check(&mut decoder, block, &third, 164);
}

#[test]
fn what_is_too_much_for_the_table_goes_in_the_order_it_came() {
    let mut decoder = Decoder::default();
    // 256 octets, as in appendix C.5.
    let mut first = hex("3fe101");
    for (name, value) in [
        (8_u8, "302"),
        (24, "private"),
        (33, "Mon, 21 Oct 2013 20:13:21 GMT"),
        (46, "https://www.example.com"),
    ] {
        first.extend([0x40 | name, u8::try_from(value.len()).unwrap()]);
        first.extend(value.bytes());
    }
    decoded(&mut decoder, &first).unwrap();
    assert_eq!(decoder.size, 222);
    let second = [&hex("48 03")[..], b"307", &hex("c1 c0 bf")].concat();
    let fields = decoded(&mut decoder, &second).unwrap();
    assert_eq!(fields[0], (":status".into(), "307".into()));
    assert_eq!(fields[1].0, "cache-control");
    assert_eq!((fields.len(), decoder.size, decoder.entries.len()), (4, 222, 4));
    decoded(&mut decoder, &hex("20")).unwrap();
    assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    let mut block = [&[0x40, 1, b'a', 1, b'b'][..], &[0x40, 1, b'c', 0x7f, 0xbf, 0x1e]].concat();
    block.extend([b'v'; 4030]);
    assert_eq!(decoded(&mut decoder, &block).unwrap().len(), 2);
    assert_eq!(decoder.entries.len(), 1, "34 + 4063 octets do not both fit");
    let mut block = vec![0x40, 1, b'd', 0x7f, 0xc9, 0x1f];
    block.extend([b'v'; 4096 + 72]);
    assert_eq!(decoded(&mut decoder, &block).unwrap().len(), 1);
    assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
}

#[test]
fn what_is_no_field_keeps_its_place() {
    let mut decoder = Decoder::default();
    let block = [&[0x40, 1, b'A', 1, b'b'][..], &[0x40, 1, b'a', 1, 0], &[0xbe, 0xbf]].concat();
    let fields = decoded(&mut decoder, &block).unwrap();
    assert!(fields.iter().all(|(name, size)| name == "malformed" && size == "2"), "{fields:?}");
    assert_eq!((fields.len(), decoder.size), (4, 2 * 34));
    let block = [&[0x04, 3][..], b"/\r\n"].concat();
    assert_eq!(decoded(&mut decoder, &block).unwrap()[0].0, "malformed", "line end in :path");
    for (what, name) in [("unknown pseudo", ":x"), ("empty", ""), ("space", "a b")] {
        let length = u8::try_from(name.len()).unwrap();
        let block = [&[0, length][..], name.as_bytes(), &[0]].concat();
        assert_eq!(decoded(&mut decoder, &block).unwrap()[0].0, "malformed", "{what}");
    }
}

#[test]
fn literals_that_are_never_to_be_indexed_stay_so() {
    let mut sensitive = Vec::new();
    let block = [&[0x10, 1, b'a', 1, b'b'][..], &[0x00, 1, b'a', 1, b'b']].concat();
    let decoded = Decoder::default().decode(&block, |field| {
        let Field::Regular(_, value) = field else { panic!("{field:?}") };
        sensitive.push(value.is_sensitive());
    });
    assert_eq!((decoded, sensitive), (Ok(()), vec![true, false]));
}

#[test]
fn broken_blocks_are_told_from_broken_fields() {
    for (what, block) in [
        ("index 0", &[0x80][..]),
        ("index of nothing", &[0xbe]),
        ("name of nothing", &[0x7e, 1, b'a']),
        ("no value", &[0x41]),
        ("cut value", &[0x41, 2, b'a']),
        ("endless integer", &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80]),
        ("cut integer", &[0xff]),
        ("large integer", &[0x41, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
        ("table larger than allowed", &[0x3f, 0xe2, 0x1f]),
        ("table size after a field", &[0x82, 0x20]),
        ("EOS", &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff]),
    ] {
        assert_eq!(decoded(&mut Decoder::default(), block), Err(Undecodable), "{what}");
    }
    let twice = decoded(&mut Decoder::default(), &[0x20, 0x3f, 0xe1, 0x1f, 0x82]);
    assert_eq!(twice.unwrap().len(), 1, "two sizes before the first field are allowed");
}
