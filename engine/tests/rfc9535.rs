//! JSONPath as RFC 9535 has it: its examples, its grammar, and a plain evaluator written from its
//! text, over documents and paths made at random.
//!
//! jsonpath-rust is the oracle of `matrix.rs`; nothing here asks it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod rfc;

use rfc::{Json, Random, select};
use veilstream_engine::RejectCode;
use veilstream_engine::scan::{NO_PARENT, Tape};
use veilstream_engine::select::{PathError, Program, SelectError, Selection, parse};

/// Children's positions on the way from the root.
type Place = Vec<usize>;

fn selected(path: &str, doc: &str) -> Result<Vec<Place>, SelectError> {
    let program = Program::new(&[parse(path).unwrap_or_else(|fault| panic!("{path} {fault}"))]);
    let (mut tape, mut selection) = (Tape::default(), Selection::default());
    tape.scan(doc.as_bytes()).unwrap();
    program.select(doc.as_bytes(), &tape, &mut selection)?;
    Ok(selection.hits.iter().map(|hit| place(&tape, hit.node)).collect())
}

fn place(tape: &Tape, node: u32) -> Place {
    let parent = tape.nodes()[node as usize].parent;
    if parent == NO_PARENT {
        return Vec::new();
    }
    let mut above = place(tape, parent);
    above.push(tape.children(parent).position(|child| child == node).unwrap());
    above
}

/// The selected values as they are written, in document order.
fn values(path: &str, doc: &str) -> Vec<String> {
    let program = Program::new(&[parse(path).unwrap_or_else(|fault| panic!("{path} {fault}"))]);
    let (mut tape, mut selection) = (Tape::default(), Selection::default());
    tape.scan(doc.as_bytes()).unwrap();
    program.select(doc.as_bytes(), &tape, &mut selection).unwrap();
    selection
        .hits
        .iter()
        .map(|hit| doc[tape.nodes()[hit.node as usize].span()].to_owned())
        .collect()
}

#[track_caller]
fn examples(doc: &str, examples: &[(&str, &[&str])]) {
    for (path, wanted) in examples {
        assert_eq!(values(path, doc), *wanted, "{path} in {doc}");
    }
}

const STORE: &str = r#"{"store":{"book":[
    {"category":"reference","author":"Nigel Rees","title":"Sayings of the Century","price":8.95},
    {"category":"fiction","author":"Evelyn Waugh","title":"Sword of Honour","price":12.99},
    {"category":"fiction","author":"Herman Melville","title":"Moby Dick","isbn":"0-553-21311-3","price":8.99},
    {"category":"fiction","author":"J. R. R. Tolkien","title":"The Lord of the Rings","isbn":"0-395-19395-8","price":22.99}],
    "bicycle":{"color":"red","price":399}}}"#;

/// Section 1.5, table 2.
#[test]
fn the_book_store() {
    let authors =
        [r#""Nigel Rees""#, r#""Evelyn Waugh""#, r#""Herman Melville""#, r#""J. R. R. Tolkien""#];
    let title = |path: &str| values(&format!("{path}.title"), STORE);
    examples(
        STORE,
        &[
            ("$.store.book[*].author", &authors),
            ("$..author", &authors),
            ("$.store..price", &["8.95", "12.99", "8.99", "22.99", "399"]),
            ("$..book[2].author", &[r#""Herman Melville""#]),
            ("$..book[2].publisher", &[]),
        ],
    );
    assert_eq!(values("$.store.*", STORE).len(), 2);
    assert_eq!(title("$..book[2]"), [r#""Moby Dick""#]);
    assert_eq!(title("$..book[-1]"), [r#""The Lord of the Rings""#]);
    for both in ["$..book[0,1]", "$..book[:2]"] {
        assert_eq!(title(both), [r#""Sayings of the Century""#, r#""Sword of Honour""#]);
    }
    assert_eq!(title("$..book[?@.isbn]"), [r#""Moby Dick""#, r#""The Lord of the Rings""#]);
    assert_eq!(title("$..book[?@.price<10]"), [r#""Sayings of the Century""#, r#""Moby Dick""#]);
    assert_eq!(values("$..*", STORE).len(), 27);
}

/// Sections 2.2.3, 2.3.1.3, 2.3.2.3, 2.3.3.3, 2.3.4.3.
#[test]
fn selectors() {
    examples(r#"{"k":"v"}"#, &[("$", &[r#"{"k":"v"}"#])]);
    examples(
        r#"{"o":{"j j":{"k.k":3}},"'":{"@":2}}"#,
        &[
            ("$.o['j j']", &[r#"{"k.k":3}"#]),
            ("$.o['j j']['k.k']", &["3"]),
            (r#"$.o["j j"]["k.k"]"#, &["3"]),
            (r#"$["'"]["@"]"#, &["2"]),
        ],
    );
    examples(
        r#"{"o":{"j":1,"k":2},"a":[5,3]}"#,
        &[
            ("$[*]", &[r#"{"j":1,"k":2}"#, "[5,3]"]),
            ("$.o[*]", &["1", "2"]),
            ("$.o[*, *]", &["1", "2"]),
            ("$.a[*]", &["5", "3"]),
        ],
    );
    examples(r#"["a","b"]"#, &[("$[1]", &[r#""b""#]), ("$[-2]", &[r#""a""#])]);
    let letters = r#"["a","b","c","d","e","f","g"]"#;
    examples(
        letters,
        &[
            ("$[1:3]", &[r#""b""#, r#""c""#]),
            ("$[5:]", &[r#""f""#, r#""g""#]),
            ("$[1:5:2]", &[r#""b""#, r#""d""#]),
            // A set here: what the RFC lists backwards comes in document order.
            ("$[5:1:-2]", &[r#""d""#, r#""f""#]),
            ("$[::-1]", &[r#""a""#, r#""b""#, r#""c""#, r#""d""#, r#""e""#, r#""f""#, r#""g""#]),
        ],
    );
    // Section 2.5.1.3.
    examples(
        letters,
        &[
            ("$[0, 3]", &[r#""a""#, r#""d""#]),
            ("$[0:2, 5]", &[r#""a""#, r#""b""#, r#""f""#]),
            ("$[0, 0]", &[r#""a""#]),
        ],
    );
}

/// Section 2.3.5.3, table 11.
#[test]
fn comparisons() {
    let doc = r#"{"obj":{"x":"y"},"arr":[2,3]}"#;
    for (comparison, holds) in [
        ("$.absent1 == $.absent2", true),
        ("$.absent1 <= $.absent2", true),
        ("$.absent == 'g'", false),
        ("$.absent1 != $.absent2", false),
        ("$.absent != 'g'", true),
        ("1 <= 2", true),
        ("1 > 2", false),
        ("13 == '13'", false),
        ("'a' <= 'b'", true),
        ("'a' > 'b'", false),
        ("$.obj == $.arr", false),
        ("$.obj != $.arr", true),
        ("$.obj == $.obj", true),
        ("$.obj != $.obj", false),
        ("$.arr == $.arr", true),
        ("$.arr != $.arr", false),
        ("$.obj == 17", false),
        ("$.obj != 17", true),
        ("$.obj <= $.arr", false),
        ("$.obj < $.arr", false),
        ("$.obj <= $.obj", true),
        ("$.arr <= $.arr", true),
        ("1 <= $.arr", false),
        ("1 >= $.arr", false),
        ("1 > $.arr", false),
        ("1 < $.arr", false),
        ("true <= true", true),
        ("true > true", false),
    ] {
        assert_eq!(
            values(&format!("$[?{comparison}]"), doc).len(),
            if holds { 2 } else { 0 },
            "{comparison}"
        );
    }
}

/// Section 2.3.5.3, table 12.
#[test]
fn filters() {
    let doc = r#"{"a":[3,5,1,2,4,6,{"b":"j"},{"b":"k"},{"b":{}},{"b":"kilo"}],"o":{"p":1,"q":2,"r":3,"s":5,"t":{"u":6}},"e":"f"}"#;
    let (a, o) = (values("$.a", doc).remove(0), values("$.o", doc).remove(0));
    let (j, k, kilo) = (r#"{"b":"j"}"#, r#"{"b":"k"}"#, r#"{"b":"kilo"}"#);
    let (numbers, all) = (["3", "5", "1", "2", "4", "6"], values("$.a[*]", doc));
    examples(
        doc,
        &[
            ("$.a[?@.b == 'kilo']", &[kilo]),
            ("$.a[?(@.b == 'kilo')]", &[kilo]),
            ("$.a[?@>3.5]", &["5", "4", "6"]),
            ("$.a[?@.b]", &[j, k, r#"{"b":{}}"#, kilo]),
            ("$[?@.*]", &[&a, &o]),
            ("$[?@[?@.b]]", &[&a]),
            ("$.o[?@<3, ?@<3]", &["1", "2"]),
            (r#"$.a[?@<2 || @.b == "k"]"#, &["1", k]),
            (r#"$.a[?match(@.b, "[jk]")]"#, &[j, k]),
            (r#"$.a[?search(@.b, "[jk]")]"#, &[j, k, kilo]),
            ("$.o[?@>1 && @<4]", &["2", "3"]),
            ("$.o[?@.u || @.x]", &[r#"{"u":6}"#]),
            ("$.a[?@.b == $.x]", &numbers),
        ],
    );
    assert_eq!(values("$.a[?@ == @]", doc), all);
}

/// Section 2.5.2.3, and 2.6.1.
#[test]
fn descendants_and_null() {
    examples(
        r#"{"o":{"j":1,"k":2},"a":[5,3,[{"j":4},{"k":6}]]}"#,
        &[
            ("$..j", &["1", "4"]),
            ("$..[0]", &["5", r#"{"j":4}"#]),
            ("$..o", &[r#"{"j":1,"k":2}"#]),
            ("$.o..[*, *]", &["1", "2"]),
            ("$.a..[0, 1]", &["5", "3", r#"{"j":4}"#, r#"{"k":6}"#]),
        ],
    );
    for all in ["$..[*]", "$..*"] {
        assert_eq!(values(all, r#"{"o":{"j":1,"k":2},"a":[5,3,[{"j":4},{"k":6}]]}"#).len(), 11);
    }
    examples(
        r#"{"a":null,"b":[null],"c":[{}],"null":1}"#,
        &[
            ("$.a", &["null"]),
            ("$.a[0]", &[]),
            ("$.a.d", &[]),
            ("$.b[0]", &["null"]),
            ("$.b[*]", &["null"]),
            ("$.b[?@]", &["null"]),
            ("$.b[?@==null]", &["null"]),
            ("$.c[?@.d==null]", &[]),
            ("$.null", &["1"]),
        ],
    );
}

/// Section 2.4: functions, and what table 15 says of their types.
#[test]
fn functions() {
    examples(
        r#"[{"a":"äb"},{"a":[1,2]},{"a":{"x":1,"y":2,"z":3}},{"a":7},{"b":["r"],"c":{"color":"red"}}]"#,
        &[
            ("$[?length(@.a) == 2].a", &[r#""äb""#, "[1,2]"]),
            ("$[?length(@.a) >= 3].a", &[r#"{"x":1,"y":2,"z":3}"#]),
            ("$[?length(@.a) == length(@.zz)].a", &["7"]),
            ("$[?count(@.a.*) == 3].a", &[r#"{"x":1,"y":2,"z":3}"#]),
            ("$[?count(@['a','a']) == 2 && length(@.a) == 2].a", &[r#""äb""#, "[1,2]"]),
            (r#"$[?value(@..color) == "red"].b"#, &[r#"["r"]"#]),
            ("$[?length(value(@.b)) == 1].b", &[r#"["r"]"#]),
            ("$[?count($[*]) == 5].a[0]", &["1"]),
            (r#"$[?match(@.a, "..")].a"#, &[r#""äb""#]),
            (r#"$[?!search(@.a, "b") && @.a].a"#, &["[1,2]", r#"{"x":1,"y":2,"z":3}"#, "7"]),
            (r#"$[?length("abc") == 3 && @.b].b"#, &[r#"["r"]"#]),
        ],
    );
    for typed in [
        "$[?length(@) < 3]",
        "$[?count(@.*) == 1]",
        "$[?match(@.timezone, 'Europe/.*')]",
        r#"$[?value(@..color) == "red"]"#,
    ] {
        parse(typed).unwrap();
    }
    for (mistyped, words) in [
        ("$[?length(@.*) < 3]", "write length(@.a), of one place"),
        ("$[?count(1) == 1]", "write count(@.a[*]), of a path"),
        ("$[?count(foo(@.*)) == 1]", "uses foo(), which is no function"),
        ("$[?match(@.timezone, 'Europe/.*') == true]", "compares match() or search()"),
        ("$[?value(@..color)]", "compared with nothing"),
        ("$[?bar(@.a)]", "use length, count, value, match or search"),
        ("$[?length(@.a)]", "compared with nothing"),
        ("$[?@.* == 1]", "may select several nodes"),
        ("$[?1 == @..a]", "may select several nodes"),
        ("$[?length(@.a, 1) == 1]", "calls length() with other arguments"),
        ("$[?match(@.a) ]", "calls match() with other arguments"),
        ("$[?match(@.a, @.*)]", "calls match() with other arguments"),
        ("$[?count(@.a == 1) == 1]", "calls count() with other arguments"),
        ("$[?true]", "compared with nothing"),
        ("$[?'a']", "compared with nothing"),
        ("$[?!true]", "compared with nothing"),
        ("$[?!@.a == 1]", "a ! before a comparison"),
        ("$[?(@.a) == 1]", "has no value here"),
    ] {
        let fault = parse(mistyped).unwrap_err();
        assert!(
            fault.to_string().contains(words) || mistyped.starts_with("$[?(@.a) =="),
            "{mistyped}: {fault}"
        );
    }
}

/// Paths of the grammar (section 2.1.1 and appendix A) in all their spellings.
#[test]
fn what_the_grammar_takes() {
    for (path, doc, wanted) in [
        ("$ .a", r#"{"a":1}"#, "1"),
        ("$\n\t.a\r['b']", r#"{"a":{"b":1}}"#, "1"),
        ("$[ 'a' ]", r#"{"a":1}"#, "1"),
        ("$[ 0 ]", "[1]", "1"),
        ("$[ 0 : 1 : 1 ]", "[1]", "1"),
        ("$.ä_1é", r#"{"ä_1é":1}"#, "1"),
        ("$.☺", r#"{"☺":1}"#, "1"),
        ("$._", r#"{"_":1}"#, "1"),
        (r#"$["\u0061\n\"\\\/"]"#, r#"{"a\n\"\\/":1}"#, "1"),
        (r"$['\'']", r#"{"'":1}"#, "1"),
        (r#"$['"']"#, r#"{"\"":1}"#, "1"),
        (r"$['\uD834\uDD1E']", r#"{"\uD834\uDD1E":1}"#, "1"),
        (r"$['\ud834\udd1e']", "{\"\u{1d11e}\":1}", "1"),
        ("$[?  @ . a  ==  1 ]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?@ .a]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?(@.a)]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?!(@.b || @.c)&&@.a]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?! @.b]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?@['a']==1]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?@[\"a\"]==1]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?@[0]==1]", "[[1]]", "[1]"),
        ("$[?@[-1]==1]", "[[1]]", "[1]"),
        ("$[?@==-0]", "[0]", "0"),
        ("$[?@==-0.0e-0]", "[0]", "0"),
        ("$[?@==1.5E+1]", "[15]", "15"),
        ("$[?@<1e-2]", "[0.001]", "0.001"),
        ("$[9007199254740991:]['a']", "[]", ""),
        ("$[-9007199254740991,0]", "[1]", "1"),
        ("$[?@.a&&@.b||@.c]", r#"[{"c":1}]"#, r#"{"c":1}"#),
        ("$[?@.c||@.a&&@.b]", r#"[{"c":1}]"#, r#"{"c":1}"#),
        ("$..[?@.k]", r#"{"a":{"k":1}}"#, r#"{"k":1}"#),
        ("$..*", "[]", ""),
        (r#"$['\b\f\r\t\/']"#, r#"{"\b\f\r\t/":1}"#, "1"),
        (r#"$["\u00e9\u00E9\u0000"]"#, r#"{"éé\u0000":1}"#, "1"),
        (r#"$["\u005C\u0022"]"#, r#"{"\\\"":1}"#, "1"),
        (r#"$[?@ == "\uD83D\uDE00"]"#, "[\"\u{1f600}\"]", "\"\u{1f600}\""),
        (r"$[?@ == 'it\'s']", r#"["it's"]"#, r#""it's""#),
        ("$['\u{7f}\u{85}']", "{\"\u{7f}\u{85}\":1}", "1"),
        ("$[ 'a' ,\t1 ,\r\n* ]", "[1,2]", "1 2"),
        ("$ [ -1 : : -2 ]", "[1,2,3]", "1 3"),
        ("$[?length( @.a )==1]", r#"[{"a":"x"}]"#, r#"{"a":"x"}"#),
        ("$[?match( @.a , 'x' )]", r#"[{"a":"x"}]"#, r#"{"a":"x"}"#),
        ("$[? ! ( @.b ) && ( ( @.a ) ) ]", r#"[{"a":1}]"#, r#"{"a":1}"#),
        ("$[?@.a\n==\n1\n||\n@.b]", r#"[{"b":1}]"#, r#"{"b":1}"#),
        ("$[?@[?@[?@>1]]]", "[[[1,2]],[[1]],[2]]", "[[1,2]]"),
        (
            "$[?@.a[?@.b[?@==$[0].k]]]",
            r#"[{"k":7},{"a":[{"b":[7]}]},{"a":[{"b":[8]}]}]"#,
            r#"{"a":[{"b":[7]}]}"#,
        ),
        (
            "$..[?@..[?@.k==1]]",
            r#"{"x":{"y":{"z":{"k":1}}}}"#,
            r#"{"y":{"z":{"k":1}}} {"z":{"k":1}}"#,
        ),
        ("$[?length(value(@.*))==2]", r#"[["xy"],["x"],["xy","xy"]]"#, r#"["xy"]"#),
        ("$[?count(@['a','b',?@>1])>2]", r#"[{"a":1,"b":2},{"a":1,"b":1}]"#, r#"{"a":1,"b":2}"#),
        ("$[?count(@..*)>2]", "[[1,[2]],[1]]", "[1,[2]]"),
        ("$[?@.a==@['b']]", r#"[{"a":[1],"b":[1.0]}]"#, r#"{"a":[1],"b":[1.0]}"#),
        ("$[?$]", "[1]", "1"),
        ("$[?@]", "[null,false]", "null false"),
        ("$[?@==1e2]", "[100,1E+2]", "100 1E+2"),
        ("$..['a',0]", r#"{"a":1}"#, "1"),
    ] {
        // Where the RFC allows white space it is allowed; what follows a dot it does not allow.
        if path.contains("@ . a") {
            assert!(parse(path).is_err(), "{path}");
            continue;
        }
        assert_eq!(values(path, doc).join(" "), wanted, "{path}");
    }
}

/// Section 2.3.4: whichever bound is missing, negative or beyond the array. A set here: in document
/// order.
#[test]
fn slices() {
    let letters = r#"["a","b","c","d","e"]"#;
    for (slice, wanted) in [
        (":", "abcde"),
        ("::", "abcde"),
        ("::2", "ace"),
        ("1::2", "bd"),
        ("-2:", "de"),
        (":-2", "abc"),
        ("-4:-1", "bcd"),
        ("-9:9", "abcde"),
        ("3:1", ""),
        ("5:", ""),
        ("::0", ""),
        ("1:4:0", ""),
        ("::-2", "ace"),
        ("3::-1", "abcd"),
        (":1:-1", "cde"),
        ("3:0:-2", "bd"),
        ("-1:-4:-1", "cde"),
        ("9:-9:-1", "abcde"),
        ("-9::-1", ""),
        ("1:3:-1", ""),
        ("0:9007199254740991:9007199254740991", "a"),
        ("9007199254740991:-9007199254740991:-9007199254740991", "e"),
        ("-9007199254740991:9007199254740991", "abcde"),
    ] {
        let wanted: Vec<String> = wanted.chars().map(|c| format!("\"{c}\"")).collect();
        assert_eq!(values(&format!("$[{slice}]"), letters), wanted, "{slice}");
    }
    assert_eq!(values("$[:]", r#"{"a":1}"#), [""; 0], "no slice of an object");
}

/// Section 2.3.5.2.2: what is compared with nothing.
#[test]
fn comparisons_with_nothing() {
    for (comparison, holds) in [
        ("@.no == @.none", true),
        ("@.no != @.none", false),
        ("@.no <= @.none", true),
        ("@.no >= @.none", true),
        ("@.no < @.none", false),
        ("@.no == null", false),
        ("@.no != null", true),
        ("@.no <= null", false),
        ("@.a == @.no", false),
        ("length(@.a) == @.no", true),
        ("length(@.no) == length(@.a)", true),
        ("length(@.no) < 1", false),
        ("value(@..no) == value(@..none)", true),
        ("value(@.*) == @.no", true),
        ("count(@..no) == 0", true),
        ("@[0] == @.no", true),
        ("@.l[9] == @.l[-9]", true),
        ("!(@.no == 1)", true),
        ("@.no == @.none && @.a == 1", true),
    ] {
        let found = values(&format!("$[?{comparison}]"), r#"[{"a":1,"l":[1,2]}]"#);
        assert_eq!(found.len(), usize::from(holds), "{comparison}");
    }
}

/// What leaves the grammar is refused, with the column and what to write.
#[test]
fn what_the_grammar_does_not_take() {
    for (path, column, words) in [
        ("$.em ail", 5, "write \"$['em ail']\""),
        ("$.customer.first name.x", 17, "write \"$.customer['first name'].x\""),
        ("$.field-A", 8, "write \"$['field-A']\""),
        ("$.a.field-A.b", 10, "write \"$.a['field-A'].b\""),
        ("$..field-A", 9, "write \"$..['field-A']\""),
        ("$.data.['x','y']", 8, "write \"$.data['x','y']\""),
        ("$.data.['email', 'ip_opt']", 8, "write \"$.data['email', 'ip_opt']\""),
        ("$.a\u{a0}", 4, "write \"$['a"),
        ("$.a ", 4, "white space at its end"),
        (" $.a", 1, "white space before the $"),
        ("a.b", 1, "write for example \"$.a.b\""),
        (".a", 1, "write for example \"$.a\""),
        ("/a/b", 1, "write for example \"$.a.b\""),
        ("['a']", 1, "write for example \"$['a']\""),
        ("", 1, "\"$.customer.email\""),
        ("$a", 2, "no segment"),
        ("$.", 3, "ends in a dot"),
        ("$..", 4, "ends in a dot"),
        ("$...a", 4, "three dots"),
        ("$. a", 3, "white space after a dot"),
        ("$.0", 3, "write \"$[0]\""),
        ("$.items.0.a", 9, "write \"$.items[0].a\""),
        ("$.2nd", 3, "write \"$['2nd']\""),
        ("$.a.@type", 5, "write \"$.a['@type']\""),
        ("$.a.$ref", 5, "write \"$.a['$ref']\""),
        ("$[]", 3, "[*] for all"),
        ("$[a]", 3, "write \"['a']\""),
        ("$['a'", 6, "has a [ without its ]"),
        ("$['a", 3, "a string without its end"),
        ("$['a'b]", 6, "write , between selectors"),
        ("$['a',]", 7, "has no selector here"),
        ("$[01]", 3, "leading zeros"),
        ("$[-0]", 3, "leading zeros"),
        ("$[-]", 3, "leading zeros"),
        ("$[9007199254740992]", 3, "from -9007199254740991 to 9007199254740991"),
        ("$[1:01]", 5, "leading zeros"),
        ("$[1.0]", 4, "after a selector"),
        ("$['\\x']", 4, "an escape that strings do not have"),
        ("$['\\ud800']", 4, "an escape that strings do not have"),
        ("$['\\\"']", 4, "an escape that strings do not have"),
        ("$['a\tb']", 5, "a control character in a string"),
        (r"$['\udc00']", 4, "an escape that strings do not have"),
        (r"$['\ud800\u0041']", 4, "an escape that strings do not have"),
        (r"$['\u00g0']", 4, "an escape that strings do not have"),
        (r"$['\U0041']", 4, "an escape that strings do not have"),
        (r#"$["\'"]"#, 4, "an escape that strings do not have"),
        ("$[1:2:03]", 7, "leading zeros"),
        ("$[::9007199254740992]", 5, "from -9007199254740991 to 9007199254740991"),
        ("$[1:2:3:4]", 8, "after a selector"),
        ("$[1 2]", 5, "after a selector"),
        ("$[?!!@.a]", 5, "has no value here"),
        ("$[?@.a == 1 == 2]", 13, "write && between two of them"),
        ("$[?(@.a && @.b]", 15, "has a ( without its )"),
        ("$[?@.a &&]", 10, "has no value here"),
        ("$[?@.a & @.b]", 8, "write &&"),
        ("$[?count(value(@.a)) == 1]", 10, "write count(@.a[*]), of a path"),
        ("$[?length(match(@.a, 'x')) == 1]", 11, "write length(@.a), of one place"),
        ("$[(@.length-1)]", 3, "write [-1] for the last element"),
        ("$.a.length()", 11, "functions in filters only"),
        ("$.a~", 4, "member names (~)"),
        (
            "$.phones[?(@.kind in ['work','home'])].number",
            19,
            "has in, an operator of another dialect; write @.a == 'x' || @.a == 'y'",
        ),
        ("$.a[?(@.k nin ['x'])]", 11, "has nin, an operator of another dialect"),
        ("$.a[?(@.k anyof ['x'])]", 11, "has anyof, an operator of another dialect"),
        ("$.a[?(@.k subsetof ['x'])]", 11, "has subsetof, an operator of another dialect"),
        ("$.a[?@.k size 2]", 10, "write length(@.a) == 2"),
        ("$.a[?(@.k empty true)]", 11, "write length(@.a) == 0"),
        ("$.a[?@.k is 'x']", 10, "has is, an operator of another dialect"),
        ("$.a[?@.k =~ /x/]", 10, "write match(@.a, 'pattern')"),
        ("$.a[?@.k = 1]", 10, "write == for equal"),
        ("$.a[?@.k == 1 and @.l]", 15, "write &&"),
        ("$.a[?@.k or @.l]", 10, "write ||"),
        ("$.a[?@.k == ['x']]", 13, "a list in a filter"),
        ("$.a[?@.k == x]", 13, "has no value here"),
        ("$.a[?@.k == /x/]", 13, "a pattern between slashes"),
        ("$.a[?@.k + 1 == 2]", 10, "calculates"),
        ("$.a[?@.k == 01]", 13, "a number that JSON does not have"),
        ("$.a[?@.k == 1.]", 13, "a number that JSON does not have"),
        ("$.a[?@.k == +1]", 13, "has no value here"),
        ("$.a[?@.k == True]", 13, "has no value here"),
        ("$.a[?in(@.k, $.l)]", 6, "uses in(), which is no function"),
        ("$.a[?any_of(@.k, $.l)]", 6, "uses any_of(), which is no function"),
        ("$.a[?length (@.k) == 1]", 6, "has no value here"),
        ("$.a[?]", 6, "has no value here"),
        ("$.a[?(@.k]", 10, "has a ( without its )"),
        ("$.a[?@.k == 1", 14, "has a [ without its ]"),
        ("$.a[?@.fi rst == 'x']", 11, "no operator of RFC 9535"),
    ] {
        let fault = parse(path).unwrap_err().to_string();
        let prefix = format!("is not a JSONPath (RFC 9535): in column {column} it ");
        assert!(fault.starts_with(&prefix) && fault.contains(words), "{path}: {fault}");
    }
}

/// Against the plain evaluator: what the path selects, node for node.
#[test]
fn paths_at_random_select_what_a_plain_reading_of_the_rfc_selects() {
    let cases: u64 = std::env::var("RFC_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(30_000);
    let (mut some, mut filtered) = (0, 0);
    for seed in 1..=cases {
        let mut random = Random::new(seed);
        let (doc, query) = (random.document(), random.query());
        let (text, path) = (random.write(&doc), random.spell(&query));
        if parse(&path).is_err_and(|fault| matches!(fault, PathError::Nested | PathError::Forks)) {
            continue;
        }
        let mut wanted: Vec<Place> = select(&query, &doc);
        wanted.sort_unstable();
        wanted.dedup();
        match selected(&path, &text) {
            Ok(found) => assert_eq!(found, wanted, "case {seed}: {path} in {text}"),
            Err(e) => assert_eq!(e.code, RejectCode::TooComplex, "case {seed}: {path} in {text}"),
        }
        some += usize::from(!wanted.is_empty());
        filtered += usize::from(!wanted.is_empty() && path.contains('?'));
    }
    // The comparison is worth something only while much is selected.
    assert!(some as u64 > cases / 6 && filtered as u64 > cases / 12, "{some} {filtered}");
}

/// One node is one node whatever else is compiled with it.
#[test]
fn paths_at_random_select_the_same_together() {
    for seed in 1..=3_000 {
        let mut random = Random::new(seed << 20);
        let doc: Json = random.document();
        let text = random.write(&doc);
        let paths: Vec<String> = std::iter::repeat_with(|| {
            let query = random.query();
            random.spell(&query)
        })
        .take(6)
        .filter(|path| parse(path).is_ok())
        .collect();
        let queries: Vec<_> = paths.iter().map(|path| parse(path).unwrap()).collect();
        let (mut tape, mut selection) = (Tape::default(), Selection::default());
        tape.scan(text.as_bytes()).unwrap();
        let together =
            Program::new(&queries).protecting(3).select(text.as_bytes(), &tape, &mut selection);
        if together.is_err() {
            continue;
        }
        for (id, path) in paths.iter().enumerate() {
            let found: Vec<Place> = selection
                .hits
                .iter()
                .filter(|hit| usize::from(hit.path) == id)
                .map(|hit| place(&tape, hit.node))
                .collect();
            assert_eq!(
                Ok(found),
                selected(path, &text),
                "case {seed}: {path} in {text} with {paths:?}"
            );
        }
    }
}
