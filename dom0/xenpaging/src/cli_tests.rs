// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;

fn parse(args: &[&str]) -> Result<Cli, String> {
    Cli::try_parse_from(["xenpaging"].iter().chain(args)).map_err(|error| one_line(&error))
}

/// The C pager's `--mru_size` sets max_memkb, and its `--max_memkb` does not exist.
#[test]
fn defect_8_every_long_form_means_what_its_short_form_means() {
    let short = ["-d", "3", "-f", "p", "-m", "4096", "-r", "100", "-v"];
    let long = [
        "--domain=3",
        "--pagefile=p",
        "--max_memkb=4096",
        "--mru_size=100",
        "--verbose",
    ];
    let apart = [
        "--domain",
        "3",
        "--pagefile",
        "p",
        "--max_memkb",
        "4096",
        "--mru_size",
        "100",
        "-v",
    ];
    let cli = parse(&short).unwrap();
    assert_eq!(
        (cli.domain, cli.max_memkb, cli.mru_size),
        (Some(3), Some(4096), 100)
    );
    assert_eq!(
        (cli.pagefile.as_deref(), cli.verbose),
        (Some("p".as_ref()), 1)
    );
    assert_eq!(parse(&long).unwrap(), cli);
    assert_eq!(parse(&apart).unwrap(), cli);
    assert_eq!(
        parse(&[
            "--dom",
            "3",
            "--page",
            "p",
            "--max",
            "4096",
            "--mru=100",
            "-v"
        ]),
        Ok(cli)
    );
}

#[test]
fn defaults_are_those_of_the_description() {
    let cli = parse(&["-d1", "-fp"]).unwrap();
    assert_eq!(
        (cli.mru_size, cli.max_memkb, cli.verbose),
        (16_384, None, 0)
    );
    assert_eq!(cli.config(10, &[0..=9]).memory, [0..=9]);
}

#[test]
fn bad_input_is_one_line_that_names_it() {
    let cases: [(&[&str], &str); 10] = [
        (&[], "--domain"),
        (&["-d", "1"], "--pagefile"),
        (&["-d", "0", "-f", "p"], "'0'"),
        (&["-d", "32752", "-f", "p"], "32752"),
        (&["-d", "one", "-f", "p"], "'one'"),
        (&["-d", "1", "-f", "p", "-m", "0"], "'0'"),
        (&["-d", "1", "-f", "p", "-r", "-1"], "'-1'"),
        (&["-d", "1", "-f", "p", "--gfns", "9-3"], "9 is above 3"),
        (
            &["-d", "1", "-f", "p", "--gfns", "0x10000000000"],
            "is not a frame number",
        ),
        (&["-d", "1", "-f", "p", "extra"], "'extra'"),
    ];
    for (args, named) in cases {
        let line = parse(args).unwrap_err();
        assert!(
            line.contains(named) && !line.contains('\n'),
            "{args:?}: {line}"
        );
    }
}

#[test]
fn help_is_no_error_and_bad_usage_is() {
    let read =
        |args: &[&str]| Cli::read(["xenpaging"].iter().chain(args).map(OsString::from)).map(|_| ());
    for help in ["-h", "--help", "--version"] {
        assert_eq!(read(&[help]), Err(Exit::Done));
    }
    assert_eq!(read(&["--no-such-thing"]), Err(Exit::Usage));
    assert_eq!(read(&["--embedded-host", "fd:3"]), Ok(()));
}

#[test]
fn metrics_are_on_the_loopback_unless_an_address_says_otherwise() {
    let address = |text| parse(&["-d1", "-fp", "--metrics", text]).map(|cli| cli.metrics);
    assert_eq!(address("9100"), Ok("127.0.0.1:9100".parse().ok()));
    assert_eq!(address("[::]:1"), Ok("[::]:1".parse().ok()));
    for bad in ["host:9100", "70000", "127.0.0.1"] {
        assert!(address(bad).unwrap_err().contains(bad));
    }
}

#[test]
fn c5_areas_stand_in_for_the_pagefile_and_have_priorities() {
    let areas = |args: &[&str]| parse(args).map(|cli| cli.swap);
    let area = |path: &str, priority| AreaChoice {
        path: path.into(),
        priority,
    };
    let two = ["-d1", "--swap", "/dev/x", "--swap=a:b:-3"];
    assert_eq!(areas(&two), Ok(vec![area("/dev/x", 0), area("a:b", -3)]));
    for (args, named) in [
        (&["-d1", "--swap", "a:high"][..], "'high'"),
        (&["-d1", "-fp", "--swap", "a"], "--swap"),
        (&["mkswap"], "<FILE>"),
        (&["mkswap", "a", "--size", "much"], "much"),
        (&["swaps"], "<FILES>"),
    ] {
        let line = areas(args).unwrap_err();
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn status_needs_no_domain_and_takes_no_options_of_paging() {
    let status = |args: &[&str]| parse(args).map(|cli| cli.command);
    let all = Command::Status { domain: None };
    let one = Command::Status { domain: Some(3) };
    assert_eq!(status(&["status"]), Ok(Some(all)));
    assert_eq!(status(&["status", "-d", "3"]), Ok(Some(one)));
    assert!(status(&["-d", "3", "-f", "p", "status"]).is_err());
}

#[test]
fn ranges_of_frame_numbers_add_up() {
    let args = [
        "-d1",
        "-fp",
        "--gfns",
        "0-0xff",
        "--gfns",
        "4096",
        "--only-gfns=0-9999",
    ];
    let sweep = parse(&args).unwrap().sweep();
    assert_eq!(
        (sweep.never, sweep.only),
        (vec![0..=255, 4096..=4096], vec![0..=9999])
    );
}

#[test]
fn max_memkb_is_memory_from_the_start_on_across_holes() {
    let memory = [0..=9, 100..=109];
    let handled = |kib: &str| {
        parse(&["-d1", "-fp", "-m", kib])
            .unwrap()
            .config(20, &memory)
            .memory
    };
    assert_eq!(handled("4"), [0..=0]);
    assert_eq!(handled("40"), [0..=9]);
    assert_eq!(handled("48"), [0..=9, 100..=101]);
    assert_eq!(handled("99999999"), memory);
    assert_eq!(handled(&u64::MAX.to_string()), memory);
}

#[test]
fn c5_areas_are_added_to_and_taken_from_a_pager_that_is_named() {
    let command = |args: &[&str]| parse(args).map(|cli| cli.command);
    let pager = PagerOf {
        domain: Some(3),
        embedded_host: None,
    };
    assert_eq!(pager.control_name().as_deref(), Some("xenpaging-3"));
    let on = Command::Swapon {
        pager: pager.clone(),
        area: AreaChoice {
            path: "a".into(),
            priority: 5,
        },
    };
    assert_eq!(command(&["swapon", "-d3", "a:5"]), Ok(Some(on)));
    let files = Vec::new();
    let list = Command::Swaps { pager, files };
    assert_eq!(command(&["swaps", "-d3"]), Ok(Some(list)));
    for (args, named) in [
        (&["swapoff", "a"][..], "--domain"),
        (&["swapon", "a"], "--domain"),
        (&["swapoff", "-d3"], "<FILE>"),
        (&["upgrade"], "--domain"),
        (&["swapon", "-d3", "a:b"], "'b'"),
    ] {
        let line = command(args).unwrap_err();
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn several_guests_have_a_file_and_a_share_each() {
    let guests = |args: &[&str]| {
        let args = ["xenpaging"].iter().chain(args);
        let cli = Cli::try_parse_from(args).and_then(Cli::checked);
        cli.map_err(|error| one_line(&error))
    };
    let cli = guests(&["--guest", "1:/p/a", "--guest=2:/p/b:c:300"]).unwrap();
    let (a, b) = (Path::new("/p/a"), Path::new("/p/b:c"));
    assert_eq!(
        cli.guests(),
        [(Some(1), Some(a), 100), (Some(2), Some(b), 300)]
    );
    assert_eq!(
        guests(&["-d5", "-fp"]).unwrap().guests(),
        [(Some(5), Some(Path::new("p")), 100)]
    );
    for (args, named) in [
        (&["--guest", "1"][..], "file"),
        (&["--guest", "0:a"], "not the number of a domain"),
        (&["--guest", "x:a"], "not the number of a domain"),
        (&["--guest", "1:a:0"], "'0' is not a share"),
        (&["--guest", "1:a:much"], "'much' is not a share"),
        (&["--guest", "1:"], "there is no file"),
        (
            &["--guest", "1:a", "--guest", "1:b"],
            "domain 1 is named twice",
        ),
        (&["--guest", "1:a", "--guest", "2:a"], "a is named twice"),
        (&["--guest", "1:a", "-d", "2"], "--domain"),
        (&["--guest", "1:a", "-f", "b"], "--pagefile"),
        (&["--guest", "1:a", "--swap", "b"], "--swap"),
    ] {
        let line = guests(args).unwrap_err();
        assert!(
            line.contains(named) && !line.contains('\n'),
            "{args:?}: {line}"
        );
    }
}

#[test]
fn c4_marks_are_sizes_in_order_and_the_tax_is_below_100() {
    let marks = |args: &[&str]| {
        parse(&[&["-d1", "-fp"], args].concat()).map(|cli| (cli.watermarks, cli.tax))
    };
    assert_eq!(marks(&[]), Ok((None, 75)));
    let wanted = Watermarks::new(128, 16 * 256, 1 << 18);
    assert_eq!(
        marks(&["--watermarks", "512K,16,1G", "--tax", "0"]),
        Ok((wanted, 0))
    );
    for (args, named) in [
        (&["--watermarks", "1,2"][..], "three sizes"),
        (&["--watermarks", "1,2,3,4"], "three sizes"),
        (&["--watermarks", "3,2,1"], "require 0 < MIN < LOW < HIGH"),
        (&["--watermarks", "1,2,x"], "x"),
        (&["--watermarks", "1,2,3", "--tax", "100"], "100"),
        (&["--tax", "50"], "--watermarks"),
    ] {
        let line = marks(args).unwrap_err();
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn the_worst_that_became_of_a_guest_counts() {
    use Exit::{Done, Failed, NextTakesOver, NotStarted, PagesOut};
    for (one, other, both) in [
        (Done, Done, Done),
        (Done, NotStarted, NotStarted),
        (NotStarted, Failed, Failed),
        (PagesOut, Failed, PagesOut),
        (PagesOut, NextTakesOver, NextTakesOver),
    ] {
        assert_eq!((one.worst(other), other.worst(one)), (both, both));
    }
}

#[test]
fn every_policy_goes_by_the_name_that_the_command_line_takes() {
    for name in PolicyName::ALL {
        let cli = parse(&["-d1", "-fp", "--policy", name.name()]).unwrap();
        assert_eq!(cli.policy, Some(name));
    }
}
