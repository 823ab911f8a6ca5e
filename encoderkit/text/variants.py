"""Two ways to write the same: full-width and half-width letters, simplified and traditional characters.

The table of characters holds the commonest of those that are written in one way alone in each script, by OpenCC's
dictionaries and counted in modern Chinese text: left out is what has several traditional forms (发), or is itself
written in traditional text (后, 台). About a quarter of the characters of a text are of it: enough to tell a
sentence, not enough to convert one.
"""

import re
from typing import Literal

_SIMPLIFIED = (
    "为这来应会时国说们条将对进关设务军规过经业门机从动内处数与没现实区员统单请书样间给运产还责东项装户长问议学让计体见无权标"
    "级县备职资选护监构认马组报点变节两许该网调称图决领结阳义刘张执况记编检儿车亲办环营听杀气审边则强码题创队试场输电传违专礼"
    "论写类显软费达导头载带击终卫测织转总举库罚启话验号师诉简质连负随难诏担兴远预属视宫语众风协险陈农乐围镇败汉严黄齐财择孙够"
    "却离华讨诸晋态声观归乱约络乡杨盘养评赵错续继换联树赐读欢优识轻献断济习骑满劳顺纳际临敌虽维钱补损仪键灾访吗状势仅销虚谋吴"
    "独医爱响帮争旧储迁贵脚废赏贼细辑块萧刚误税减丧戏灵怀岁绝异释龙韩圣贤隐页档拟览辞额仓励觉询粮阴庙伤坚虑弃积坏绿较讲谢郑偿"
    "译宝热扩频抚层绍贡劝扬灭货园罢邮驾册驱辖阅驻庄疗挥庆颜宽训遗惊卖祸辅饮禄鲁购银础飞浏谈红杂拥温镜详陆赶删诚盖双讼压罗"
)
_TRADITIONAL = (
    "為爲這來應會時國說們條將對進關設務軍規過經業門機從動內處數與沒現實區員統單請書樣間給運產還責東項裝戶長問議學讓計體見無權標"
    "級縣備職資選護監構認馬組報點變節兩許該網調稱圖決領結陽義劉張執況記編檢兒車親辦環營聽殺氣審邊則強碼題創隊試場輸電傳違專禮"
    "論寫類顯軟費達導頭載帶擊終衛測織轉總舉庫罰啓話驗號師訴簡質連負隨難詔擔興遠預屬視宮語衆風協險陳農樂圍鎮敗漢嚴黃齊財擇孫夠"
    "卻離華討諸晉態聲觀歸亂約絡鄉楊盤養評趙錯續繼換聯樹賜讀歡優識輕獻斷濟習騎滿勞順納際臨敵雖維錢補損儀鍵災訪嗎狀勢僅銷虛謀吳"
    "獨醫愛響幫爭舊儲遷貴腳廢賞賊細輯塊蕭剛誤稅減喪戲靈懷歲絕異釋龍韓聖賢隱頁檔擬覽辭額倉勵覺詢糧陰廟傷堅慮棄積壞綠較講謝鄭償"
    "譯寶熱擴頻撫層紹貢勸揚滅貨園罷郵駕冊驅轄閱駐莊療揮慶顏寬訓遺驚賣禍輔飲祿魯購銀礎飛瀏談紅雜擁溫鏡詳陸趕刪誠蓋雙訟壓羅"
)
_KANA = re.compile(r"[\u3041-\u30ff]")
_IN_SIMPLIFIED, _IN_TRADITIONAL = re.compile(f"[{_SIMPLIFIED}]"), re.compile(f"[{_TRADITIONAL}]")
_FULL = "".join(chr(c) for c in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)))
_HALF = "".join(chr(ord(c) - 0xFEE0) for c in _FULL)
_WIDE, _NARROW = re.compile(f"[{_FULL}]"), re.compile("[0-9A-Za-z]")
_MARKS = tuple(zip("，！？：；（）", ",!?:;()", strict=True))

Script = Literal["simplified", "traditional", "both"]


def script(text: str) -> Script | None:
    """Which characters a Chinese text is written with; None where it has none that tell, or is Japanese."""
    if text.isascii() or _KANA.search(text):
        return None
    simplified, traditional = bool(_IN_SIMPLIFIED.search(text)), bool(_IN_TRADITIONAL.search(text))
    return "both" if simplified and traditional else "simplified" if simplified else "traditional" if traditional else None


def wide(text: str) -> bool:
    """Whether a text has full-width letters or digits."""
    return not text.isascii() and bool(_WIDE.search(text))


def narrow(text: str) -> bool:
    """Whether a text has half-width, that is ASCII, letters or digits."""
    return bool(_NARROW.search(text))


def mixed_marks(text: str) -> bool:
    """Whether a text has the same punctuation mark in full width and in half width."""
    return not text.isascii() and any(full in text and half in text for full, half in _MARKS)


def narrowed(text: str) -> str:
    """Full-width letters and digits as ASCII, one for one, so that offsets stay; everything else as it is."""
    return text.translate(_NARROWED)


_NARROWED = str.maketrans(_FULL, _HALF)
