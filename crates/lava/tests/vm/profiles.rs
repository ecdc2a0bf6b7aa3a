//! Task profiles: files made by the tools that people use, opened by real viewers in the guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use lava_event::{Kind, Verdict};

use crate::common::{Ran, lava, run, with_screen};

const HONEST: &str = "#!/bin/sh\necho checked > /home/user/checked\n";
/// Writes a job for the user's next login, and runs a program that it unpacks from itself.
const HOSTILE: &str = "cp /bin/true /tmp/.update\nchmod +x /tmp/.update\n/tmp/.update\n\
    echo '/tmp/.update &' >> /home/user/.profile\n";

/// Runs a tool in a folder.
fn tool(folder: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: run `cargo xtask setup`"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with these files in it, and a PDF with text, a font and a picture.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let draw = "from reportlab.pdfgen.canvas import Canvas\nfrom reportlab.lib.utils import ImageReader\nfrom PIL import Image\n\
        page = Canvas('bill.pdf')\npage.drawString(72, 700, 'Invoice 4711')\n\
        page.drawImage(ImageReader(Image.new('RGB', (20, 20), 'red')), 72, 600)\npage.showPage()\npage.save()\n";
    // Debian's own: the library is a Debian package.
    tool(folder.path(), "/usr/bin/python3", &["-c", draw]);
    folder
}

fn open(path: PathBuf, options: &[&str]) -> Ran {
    run(&[&[path.to_str().unwrap()], options].concat())
}

/// What the archive held, and the profile that opened it.
fn members(ran: &Ran) -> Vec<(String, Option<&str>)> {
    let members = ran.events.iter().filter_map(|event| match &event.kind {
        Kind::VmMember { path, profile, .. } => Some((path.to_string(), profile.as_deref())),
        _ => None,
    });
    members.collect()
}

/// Whether a tainted program of that name opened that file.
fn opened(ran: &Ran, program: &str, file: &str) -> bool {
    ran.events.iter().any(|event| {
        let by = event.process.as_ref().is_some_and(|process| process.exe.to_string() == program);
        by && matches!(&event.kind, Kind::FileOpen { path, .. } if path.to_string() == file)
    })
}

fn check_clean(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.findings.is_empty(), "{:#?}", ran.findings);
}

#[test]
fn a_pdf_is_drawn_by_a_viewer() {
    let folder = folder(&[]);
    let ran = open(folder.path().join("bill.pdf"), &[]);
    check_clean(&ran);
    assert_eq!(ran.session.manifest().profile, "document");
    assert!(opened(&ran, "/usr/bin/pdftoppm", "/home/user/bill.pdf"));
    let font = ran.events.iter().any(
        |event| matches!(&event.kind, Kind::FileOpen { path, .. } if path.to_string().starts_with("/usr/share/fonts/")),
    );
    assert!(font, "the viewer came as far as the text");
}

#[test]
fn a_protected_archive_is_unpacked_and_its_content_opened() {
    let perl = "open(my $f, '>', '/home/user/perl') or die; print $f \"$]\\n\";\n";
    let folder = folder(&[("check.sh", HONEST), ("list.pl", perl), ("read.me", "hello\n")]);
    tool(folder.path(), "7zz", &["a", "-psecret", "mail.zip", "check.sh", "list.pl", "bill.pdf", "read.me"]);
    let ran = open(folder.path().join("mail.zip"), &["--password", "secret"]);
    check_clean(&ran);
    let at = |name: &str| format!("/home/user/mail.zip.d/{name}");
    let expected =
        [("bill.pdf", Some("document")), ("check.sh", Some("script")), ("list.pl", Some("script")), ("read.me", None)];
    assert_eq!(members(&ran), expected.map(|(name, profile)| (at(name), profile)));
    assert!(opened(&ran, "/usr/bin/pdftoppm", &at("bill.pdf")));
    for made in ["/home/user/checked", "/home/user/perl"] {
        let seen =
            |event: &lava_event::Event| matches!(&event.kind, Kind::FileWrite { path, .. } if path.to_string() == made);
        assert!(ran.events.iter().any(seen), "{made}");
    }

    let ran = open(folder.path().join("mail.zip"), &["--password", "wrong"]);
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("needs --password"), "{}", ran.stderr);
}

#[test]
fn hostile_content_of_nested_archives_is_found() {
    let folder = folder(&[("setup.sh", HOSTILE)]);
    tool(folder.path(), "7zz", &["a", "inner.7z", "setup.sh"]);
    tool(folder.path(), "tar", &["-czf", "update.tar.gz", "inner.7z", "bill.pdf"]);
    let ran = open(folder.path().join("update.tar.gz"), &[]);
    assert_eq!(ran.code, Some(3), "{}\n{}", ran.stdout, ran.stderr);
    let inner = "/home/user/update.tar.gz.d/update.tar.d/inner.7z.d/setup.sh".to_owned();
    assert!(members(&ran).contains(&(inner, Some("script"))), "{:?}", members(&ran));
    let found = |technique: &str| ran.findings.iter().find(|finding| finding.technique.id == technique);
    assert!(found("T1546.004").is_some(), "{:#?}", ran.findings);
    let dropped = found("T1106").expect("the dropped program");
    assert!(dropped.title.contains("/tmp/.update"), "{}", dropped.title);
    assert!(!ran.findings.iter().any(|finding| finding.title.contains("setup.sh was run")), "content is not dropped");
    assert_eq!(ran.session.manifest().verdict, Some(Verdict::Malicious));
}

#[test]
fn a_screen_s_picture_is_kept() {
    let folder = folder(&[("check.sh", HONEST)]);
    // The ordinary image draws nothing, so the picture is the firmware's text.
    let profile = with_screen("script", folder.path());
    let ran = open(folder.path().join("check.sh"), &["--profile", profile.to_str().unwrap()]);
    check_clean(&ran);
    let pictures = |event: &lava_event::Event| match event.kind {
        Kind::VmScreen { picture } => Some(picture),
        _ => None,
    };
    let last = ran.events.iter().filter_map(pictures).next_back().expect("a picture");
    let file = folder.path().join("screen.png");
    let screen = lava().arg("screen").arg(ran.session.dir()).arg(&file).output().unwrap();
    assert!(screen.status.success(), "{}", String::from_utf8_lossy(&screen.stderr));
    let picture = std::fs::read(&file).unwrap();
    assert_eq!(lava_event::Sha256::of(&picture), last);
    // Debian's own Python again: the library that judges the picture is a Debian package.
    let judge = "import sys\nfrom PIL import Image\nimage = Image.open(sys.argv[1])\nimage.load()\nassert image.format == 'PNG' and image.size[0] >= 640, image\n";
    tool(folder.path(), "/usr/bin/python3", &["-c", judge, "screen.png"]);
}
