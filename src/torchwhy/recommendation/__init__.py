"""Which method should be used on this model: a race of all, judged by metrics that tell them from nothing."""

from torchwhy.recommendation.recommend import recommend
from torchwhy.recommendation.result import Contender, Recommendation, Screened
from torchwhy.recommendation.scores import Judgement

__all__ = ["Contender", "Judgement", "Recommendation", "Screened", "recommend"]
