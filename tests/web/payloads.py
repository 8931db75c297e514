"""Two hundred texts that would run a script on a page that is careless in some way: each sets `window.__pwned`.

`RUNNING` is the check for it, to be evaluated on the page at the end; `UNSAFE` lists what must not have come to be
in the page's tree, shadow roots included: elements, attributes and addresses that could run something.
"""

from __future__ import annotations

RUN = "window.__pwned=1"
RUNNING = "window.__pwned === undefined"
UNSAFE = """() => {
  const found = [], visit = (root) => {
    for (const one of root.querySelectorAll("*")) {
      if (one.shadowRoot) visit(one.shadowRoot);
      const own = one.tagName === "SCRIPT" && (one.src || one.dataset.own) || ["svg", "path", "rect", "circle", "line", "g"].includes(one.tagName);
      if (!own && /^(script|iframe|frame|object|embed|applet|base|meta|link|style|svg|math|img|image|video|audio|source|marquee|portal|template|foreignobject)$/i.test(one.tagName) && !one.closest("head")) found.push(one.outerHTML.slice(0, 120));
      for (const { name, value } of one.attributes) {
        if (/^on/i.test(name) || /^(srcdoc|formaction|xlink:href|http-equiv|ping|background|data)$/i.test(name)) found.push(`${one.tagName} ${name}`);
        if (/^(href|src|action)$/i.test(name) && !/^(https?:|mailto:|[/#?])/i.test(value.trim())) found.push(`${one.tagName} ${name}=${value.slice(0, 80)}`);
      }
    }
  };
  visit(document);
  return found;
}"""

_SELF_RUNNING = [  # markup that runs as soon as it is in the tree, or soon after
    "<script>{}</script>", "<SCRIPT>{}</SCRIPT>", "<scr<script>ipt>{}</scr</script>ipt>", "<script >{}</script >", "<script\n>{}</script\n>",
    "<script/x>{}</script>", "<script type=module>{}</script>", "<script src=\"data:text/javascript,{}\"></script>", "<script>/*\n*/{}//</script>",
    "</title><script>{}</script>", "</textarea><script>{}</script>", "</style><script>{}</script>", "</script><script>{}</script>", "--><script>{}</script>",
    "]]><script>{}</script>", "\"><script>{}</script>", "'><script>{}</script>", "`><script>{}</script>", "</p></div><script>{}</script>",
    "<noscript><p title=\"</noscript><script>{}</script>\">", "<img src=x onerror={}>", "<img src=x onerror='{}'>", "<img src=x onerror=\"{}\">",
    "<img/src=x/onerror={}>", "<IMG SRC=x OnErRoR={}>", "<img src=x\tonerror={}>", "<img src=x\nonerror={}>", "<img src=x\x0conerror={}>",
    "<img src onerror={}//", "<img src=x onerror={} <b", "\"><img src=x onerror={}>", "'><img src=x onerror={}>", "</code></pre><img src=x onerror={}>",
    "<svg onload={}>", "<svg/onload={}>", "<svg><script>{}</script></svg>", "<svg><script href=\"data:text/javascript,{}\" /></svg>",
    "<svg><animate onbegin={} attributeName=x dur=1s>", "<svg><set onbegin={} attributeName=x>", "<svg><style><img src=x onerror={}></style></svg>",
    "<svg><foreignObject><img src=x onerror={}></foreignObject></svg>", "<svg><desc><img src=x onerror={}></desc></svg>", "<svg><title><img src=x onerror={}></title></svg>",
    "<svg><image href=x onerror={}></svg>", "<math><mtext><table><mglyph><style><img src=x onerror={}></style></mglyph></table></mtext></math>",
    "<math><annotation-xml encoding=\"text/html\"><img src=x onerror={}></annotation-xml></math>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror={}>", "<body onload={}>", "<body onpageshow={}>", "<iframe onload={}></iframe>",
    "<iframe src=\"javascript:parent.{}\"></iframe>", "<iframe srcdoc=\"<script>parent.{}</script>\"></iframe>", "<object data=\"javascript:{}\"></object>",
    "<object data=x onerror={}></object>", "<embed src=\"javascript:{}\">", "<video src=x onerror={}></video>", "<video><source onerror={}></video>", "<audio src=x onerror={}></audio>",
    "<input autofocus onfocus={}>", "<select autofocus onfocus={}></select>", "<textarea autofocus onfocus={}></textarea>", "<button autofocus onfocus={}>x</button>",
    "<details open ontoggle={}>x</details>", "<marquee onstart={}>x</marquee>", "<style>@import 'javascript:{}';</style>", "<style onload={}></style>",
    "<link rel=stylesheet href=x onerror={}>", "<link rel=stylesheet href=\"data:text/css,\" onload={}>", "<meta http-equiv=refresh content=\"0;url=javascript:{}\">",
    "<base href=\"javascript:{}//\">", "<div style=\"animation:breathe 1ms\" onanimationstart={}>x</div>", "<template><script>{}</script></template>",
    "<x contenteditable autofocus tabindex=1 onfocus={}>x</x>", "<table background=\"javascript:{}\"><tr><td>x</table>", "<dialog open onclose={}><form method=dialog><button autofocus>x</button></form></dialog>",
    "<img srcset=x onerror={}>", "<picture><source srcset=x><img onerror={}></picture>", "<input type=image src=x onerror={}>", "<b><p><script>{}</script></b></p>", "<!--><img src=x onerror={}>-->",
    "<!-- --!><img src=x onerror={}>", "<![CDATA[<img src=x onerror={}>]]>", "<?xml version=\"1.0\"?><img src=x onerror={}>", "<!DOCTYPE x [<!ENTITY y '<img src=x onerror={}>'>]>&y;",
]  # fmt: skip
_WAITING = [  # what runs when somebody clicks, hovers or moves on
    "<a href=\"javascript:{}\">x</a>", "<a href=\"JaVaScRiPt:{}\">x</a>", "<a href=\" javascript:{}\">x</a>", "<a href=\"java\tscript:{}\">x</a>", "<a href=\"java\nscript:{}\">x</a>",
    "<a href=\"&#106;avascript:{}\">x</a>", "<a href=\"&#x6A;avascript&colon;{}\">x</a>", "<a href=\"javascript&Tab;:{}\">x</a>", "<a href=\"\x01javascript:{}\">x</a>",
    "<a href=\"vbscript:{}\">x</a>", "<a href=\"data:text/html,<script>opener.{}</script>\">x</a>", "<a href=\"data:text/html;base64,PHNjcmlwdD53aW5kb3cuX19wd25lZD0xPC9zY3JpcHQ+\" title=\"{}\">x</a>",
    "<a href=x onclick={}>x</a>", "<a href=x onmouseover={}>x</a>", "<p onpointerenter={}>x</p>", "<form action=\"javascript:{}\"><button>x</button></form>",
    "<form><button formaction=\"javascript:{}\">x</button></form>", "<svg><a xlink:href=\"javascript:{}\"><text y=20>x</text></a></svg>", "<svg><a><animate attributeName=href values=\"javascript:{}\" /><text y=20>x</text></a></svg>",
    "<math href=\"javascript:{}\">x</math>", "<area href=\"javascript:{}\">", "<isindex action=\"javascript:{}\">", "<input onbeforeinput={}>", "<div onwheel={}>x</div>", "<p oncopy={}>x</p>", "<p onkeydown={} tabindex=0>x</p>",
]  # fmt: skip
_MARKDOWN = [
    "[x](javascript:{})", "[x](JAVASCRIPT:{})", "[x]( javascript:{})", "[x](<javascript:{}>)", "[x](java&#10;script:{})", "[x](&#x6A;avascript:{})", "[x](javascript&colon;{})", "[x](javascript:{} \"title\")",
    "[x](data:text/html,<script>opener.{}</script>)", "[x](vbscript:{})", "[x][1]\n\n[1]: javascript:{}", "[x][2]\n\n[2]: <javascript:{}> 'title'", "<javascript:{}>", "![x](javascript:{})", "![x](x\" onerror=\"{})",
    "![x](data:image/svg+xml,<svg onload={}>)", "![\" onerror=\"{}](x)", "![x](https://x.example/\"onerror=\"{})", "[x](https://x.example/\"onmouseover=\"{})", "[x](https://x.example \"\\\" onmouseover={}\")", "[<img src=x onerror={}>](https://x.example)",
    "[![x](javascript:{})](javascript:{})", "`<img src=x onerror={}>`", "``</code><img src=x onerror={}>``", "```html\n<img src=x onerror={}>\n```", "```\"><img src=x onerror={}>\nx\n```", "```x onload={}\nx\n```",
    "~~~\n</code></pre><script>{}</script>\n~~~", "    <script>{}</script>", "# <img src=x onerror={}>", "> <script>{}</script>", "- <svg onload={}>", "1. <img src=x onerror={}>", "| a |\n|---|\n| <img src=x onerror={}> |",
    "| <script>{}</script> |\n|:-:|\n| b |", "**<img src=x onerror={}>**", "~~<svg onload={}>~~", "a<br><img src=x onerror={}>", "<div>\n\n<script>{}</script>\n\n</div>", "<details><summary>x</summary>\n\n<img src=x onerror={}>\n\n</details>",
    "https://x.example/<img/src=x/onerror={}>", "www.x.example\"onclick=\"{}", "<https://x.example/\"onclick=\"{}>", "a@x.example<img src=x onerror={}>", "\\<img src=x onerror={}\\>", "&lt;img src=x onerror={}&gt;", "&#60;script&#62;{}&#60;/script&#62;",
    "<!--\n-->\n<img src=x onerror={}>", "<pre><code>\n<img src=x onerror={}>\n</code></pre>", "[^1]\n\n[^1]: <script>{}</script>", "$$\\href{{javascript:{}}}{{x}}$$",
]  # fmt: skip
_WRITTEN = [  # templates, strings inside scripts, and letters that look like others or like nothing
    "{{{{constructor.constructor('{}')()}}}}", "${{{}}}", "#{{{}}}", "<%= {} %>", "{{%{}%}}", "[[${{{}}}]]", "{{{{= {} }}}}", "*{{{}}}", "';{};//", "\";{};//", "`;{};//", "\\';{};//", "</script>{}", "*/{}/*", "\n{}\n", "-{}-", "javascript:{}",
    "javascript:/*--></title></style></textarea></script></xmp><svg/onload='+/\"/+/onmouseover=1/+/[*/[]/+{}//'>", "__proto__[innerHTML]=<img src=x onerror={}>", "\u202e<script>{}</script>\u202c", "\ufeff<script>{}</script>",
    "<\u200bscript>{}</script>", "<script\u2028>{}</script>", "\uff1cscript\uff1e{}\uff1c/script\uff1e", "\u2039script\u203a{}", "%3Cscript%3E{}%3C/script%3E", "\\u003cscript\\u003e{}\\u003c/script\\u003e", "\\x3cscript\\x3e{}", "+ADw-script+AD4-{}+ADw-/script+AD4-",
    "<ſcript>{}</ſcript>", "<img src=x onerror\u00a0={}>", "<\x00script>{}</script>", "<scr\x00ipt>{}</script>", "<img src=x on\x00error={}>", "\u0000\u2066<svg onload={}>\u2069", "<a\u2029href=\"javascript:{}\">x</a>", "\u00bcscript\u00be{}\u00bc/script\u00be", "🐑<img src=x onerror={}>🐑", "ja\u00advascript:{}",
]  # fmt: skip

PAYLOADS = [text.format(*(2 * [RUN])) for text in (*_SELF_RUNNING, *_WAITING, *_MARKDOWN, *_WRITTEN)]
assert len(set(PAYLOADS)) == len(PAYLOADS) >= 200, len(PAYLOADS)
